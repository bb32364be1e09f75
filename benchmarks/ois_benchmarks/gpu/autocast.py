"""Peers in half precision by autocast: fp16 on a GPU with TF32 for what stays in fp32, or bf16.

Peers ship in fp32. A ratio between OIS in half precision and a peer in fp32 says little, so the
fast rows stand beside those as shipped. `torch.autocast` runs products and convolutions in half
precision and chooses what stays in fp32; nothing of the peer's code is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class HalfPrecision:
    """shipped: the contestant in fp32. precision: a key of `_DTYPES`."""

    shipped: str
    precision: str


VARIANTS = {
    f"{shipped}-{precision}": HalfPrecision(shipped, precision)
    for shipped, precision in (
        ("sam-vitb", "fp16"),
        ("hqsam-vitb", "fp16"),
        ("hqsam-vitb-hoisted", "fp16"),
        ("segnext-sax2", "fp16"),
        ("segnext-sax2", "bf16"),
        ("simpleclick-448-flip", "fp16"),
    )
}


def open_autocast(place: Place, variant: HalfPrecision) -> Contestant:
    """Open a contestant in half precision.

    Raises `NotHere` for fp16 on a CPU, where it is not faster.
    """
    from ois_benchmarks.contestants.registry import open_contestant

    if place.device != "cpu":
        allow_tf32()
    elif variant.precision == "fp16":
        raise NotHere(f"fp16 by autocast is for GPUs; on a CPU, measure {variant.shipped}")
    contestant = open_contestant(variant.shipped, place)
    return wrap(contestant, place.device, variant.precision)


def allow_tf32() -> None:
    """Let PyTorch round fp32 products to TF32. For the whole process, which measures one peer."""
    backends: Any = torch.backends
    backends.cuda.matmul.fp32_precision = "tf32"
    backends.cudnn.conv.fp32_precision = "tf32"


def wrap(contestant: Contestant, device: str, precision: str) -> Contestant:
    """`contestant` under autocast. It segments several objects per call if the peer does."""
    if isinstance(contestant, BatchedContestant):
        return BatchedAutocast(contestant, device, precision)
    return Autocast(contestant, device, precision)


class Autocast:
    """A contestant whose calls run under autocast."""

    def __init__(self, contestant: Contestant, device: str, precision: str) -> None:
        self._contestant: Any = contestant
        self._device = device
        self._dtype = _DTYPES[precision]
        self.encodes, self.served = contestant.encodes, contestant.served
        shipped = contestant.identity
        rest = "" if device == "cpu" else "TF32, "
        self.identity = replace(
            shipped,
            label=f"{shipped.label}, {precision}",
            engine=f"torch {torch.__version__} {precision} autocast, {rest}on {device}",
            precision=precision,
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
        with torch.autocast(self._device.partition(":")[0], self._dtype):
            yield


class BatchedAutocast(Autocast):
    """The same for contestants that segment several objects per call."""

    def click_each(self, points: Sequence[Click]) -> Mask:
        with self._fast():
            masks: Mask = self._contestant.click_each(points)
        return masks
