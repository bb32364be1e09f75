"""The interface between benchmarks and contestants: what a network must offer to be measured.

A new peer is one adapter: a class with these members, a function that opens it, and one line in
`registry.py`. `docs/benchmarks.md` shows an example. An adapter calls the peer's own code and uses
the settings of the peer's own evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

#: File name of OIS's network in `Place.engines`.
CHECKPOINT = "checkpoint.safetensors"


class NotHere(OISError):
    """Something that the contestant needs is missing on this machine. The row gives the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a contestant runs, and the files it may use.

    threads: CPU threads. scratch: folder for temporary files. device: "cpu" or "cuda". checkout:
    the user's clone of the peer's code, or None. weights: the peer's weights, a file or a folder;
    None for random weights. engines: folder with OIS's `CHECKPOINT` and, if the contestant needs
    them, its exported engines. plans: folder that `ois build` wrote.
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

    encodes: whether `set_image` computes image features. If not (SimpleClick), results have no
    encode figure, rather than a zero. served: whether a server answers, so that a click is a
    `Definition.SESSION`.
    """

    encodes: bool
    served: bool

    @property
    def identity(self) -> Identity: ...

    def set_image(self, image: Image) -> None:
        """Set an image, (H, W, 3) uint8 RGB. All work on it, also on a GPU, is done on return."""

    def click(self, clicks: Sequence[Click]) -> Mask:
        """Segment one object from all its clicks so far. Returns (H, W) at the image's own size.

        A single click begins a new object. With more clicks, the mask of the last call is the
        previous mask, fed back as in the peer's own evaluation.
        """

    def cost(self) -> Cost | None:
        """Parameters, FLOPs and bytes for the current image; None if they cannot be counted."""

    def close(self) -> None:
        """Release processes and memory. May be called twice."""


@runtime_checkable
class BatchedContestant(Protocol):
    """A contestant that segments several objects per call."""

    def click_each(self, points: Sequence[Click]) -> Mask:
        """Make one click on each of N objects. Returns masks (N, H, W)."""


@runtime_checkable
class StagedContestant(Protocol):
    """A contestant whose replies say where the time of a click went."""

    @property
    def stages_ms(self) -> Mapping[str, float]:
        """Milliseconds per stage of the latest call, as `ClickReply.timings_ms`."""


@runtime_checkable
class AutomaticContestant(Protocol):
    """A contestant with its own automatic mask generator."""

    def automatic(self, image: Image, points_per_side: int) -> int:
        """Encode and segment everything, one point per batch. Returns the number of masks kept."""
