"""What a network must offer to be measured: the interface between benchmarks and adapters.

A new peer is one adapter, a class with these members and a function that opens it, and one
line in `contestants.py`; `docs/benchmarks.md` shows an example. An adapter calls the peer's
own code and decides nothing that the peer's own evaluation decides otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.latency.result import Cost, Identity
from ois_client.contract.clicks import Click
from ois_client.contract.errors import OISError

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

#: OIS's network in `Place.engines`.
CHECKPOINT = "checkpoint.safetensors"


class NotHere(OISError):
    """What this contestant needs is not on this machine: a row with a reason, not a defect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a contestant runs.

    checkout: the user's clone of its code; None where there is none. weights: its file; None
    for random ones. engines: folder with OIS's `CHECKPOINT` and, for those that want them, its
    exported engines. plans: the folder that `ois build` wrote. scratch: a folder for
    what is made meanwhile. device: "cpu" or "cuda".
    """

    threads: int
    scratch: Path
    device: str = "cpu"
    checkout: Path | None = None
    weights: Path | None = None
    engines: Path | None = None
    plans: Path | None = None


class Contestant(Protocol):
    """One network in one engine, loaded.

    encodes: whether `set_image` computes image features; where it does not (SimpleClick), the
    encode's figures are left out instead of showing a zero. served: whether a server answers,
    so that a click is what `Definition.SESSION` means.
    """

    encodes: bool
    served: bool

    @property
    def identity(self) -> Identity: ...

    def set_image(self, image: Image) -> None:
        """(H, W, 3) uint8 RGB. All work on the image is done, on a GPU too, when it returns."""

    def click(self, clicks: Sequence[Click]) -> Mask:
        """All clicks on one object so far -> its mask (H, W) in the image's own size.

        One click begins another object; with more, the mask of the call before is the previous
        mask, as the peer's own evaluation feeds it back.
        """

    def cost(self) -> Cost | None:
        """Parameters, FLOPs and bytes for the image set last; None where nothing can count."""

    def close(self) -> None:
        """Let go of processes and memory; twice is fine."""


@runtime_checkable
class BatchedContestant(Protocol):
    """A contestant that answers several objects in one call."""

    def click_each(self, points: Sequence[Click]) -> Mask:
        """One click on each of N objects -> (N, H, W)."""


@runtime_checkable
class AutomaticContestant(Protocol):
    """A contestant with an automatic mask generator of its own."""

    def automatic(self, image: Image, points_per_side: int) -> int:
        """Encode and segment everything, one point a batch -> how many masks were kept."""
