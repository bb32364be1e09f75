"""Peers on a GPU in their fastest form: fp16 by autocast, and TF32 for what stays in fp32.

Peers ship in fp32. A ratio between OIS in fp16 and a peer in fp32 says little, so the fast rows
stand beside those as shipped. `torch.autocast` runs products and convolutions in fp16 and chooses
what stays in fp32; nothing of the peer's code is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ois_benchmarks.contestants.base import (
    BatchedContestant,
    Contestant,
    Image,
    Mask,
    NotHere,
    Place,
)
from ois_benchmarks.latency.result import Cost
from ois_client.contract.clicks import Click

#: Contestant -> the one as shipped.
VARIANTS = {
    f"{name}-fp16": name
    for name in (
        *("sam-vitb", "hqsam-vitb", "hqsam-vitb-hoisted"),
        *("segnext-sax2", "simpleclick-448-flip"),
    )
}


def open_autocast(place: Place, name: str) -> Contestant:
    """Open the contestant `name` in fp16. Raises `NotHere` on a CPU, where fp16 is not faster."""
    from ois_benchmarks.contestants.registry import open_contestant

    if place.device == "cpu":
        raise NotHere(f"fp16 by autocast is for GPUs; on a CPU, measure {name}")
    allow_tf32()
    return wrap(open_contestant(name, place), place.device)


def allow_tf32() -> None:
    """Let PyTorch round fp32 products to TF32. For the whole process, which measures one peer."""
    backends: Any = torch.backends
    backends.cuda.matmul.fp32_precision = "tf32"
    backends.cudnn.conv.fp32_precision = "tf32"


def wrap(contestant: Contestant, device: str) -> Contestant:
    """`contestant` under autocast. It segments several objects per call if the peer does."""
    if isinstance(contestant, BatchedContestant):
        return BatchedAutocast(contestant, device)
    return Autocast(contestant, device)


class Autocast:
    """A contestant whose calls run under autocast."""

    def __init__(self, contestant: Contestant, device: str) -> None:
        self._contestant: Any = contestant
        self._device = device
        self.encodes, self.served = contestant.encodes, contestant.served
        shipped = contestant.identity
        self.identity = replace(
            shipped,
            label=f"{shipped.label}, fp16",
            engine=f"torch {torch.__version__} fp16 autocast, TF32, on {device}",
            precision="fp16",
        )

    def set_image(self, image: Image) -> None:
        with self._fast():
            self._contestant.set_image(image)

    def click(self, clicks: Sequence[Click]) -> Mask:
        with self._fast():
            mask: Mask = self._contestant.click(clicks)
        return mask

    def cost(self) -> Cost | None:
        cost: Cost | None = self._contestant.cost()
        return cost

    def close(self) -> None:
        self._contestant.close()

    @contextmanager
    def _fast(self) -> Iterator[None]:
        with torch.autocast(self._device.partition(":")[0], torch.float16):
            yield


class BatchedAutocast(Autocast):
    """The same for contestants that segment several objects per call."""

    def click_each(self, points: Sequence[Click]) -> Mask:
        with self._fast():
            masks: Mask = self._contestant.click_each(points)
        return masks
