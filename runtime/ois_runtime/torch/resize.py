"""Resizes an image on the device to network size, bit for bit as Pillow's bicubic filter does.

On the CPU, resizing takes longer than encoding takes on a GPU. Results are identical to
`pixels.preprocess`, so both have the same preprocess version, and features are interchangeable.

Pillow computes with integers: each weight is rounded to 22 bits, an axis is a weighted sum of uint8
pixels in int32, rounded and clipped to uint8 before the next axis. Integers have no order of
summation, so a GPU gets the same result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

_PILLOW = int(PIL.__version__.partition(".")[0])
_BITS = 22
_CUBIC = -0.5  # Pillow's parameter of the bicubic filter
_SUPPORT = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class ResizeTaps:
    """For each output position, which source positions are summed with which weights.

    index: (size, taps) int64. weight: (size, taps) int32, in units of 2^-22; 0 where a position has
    fewer taps.
    """

    index: NDArray[np.int64]
    weight: NDArray[np.int32]

    @classmethod
    def of(cls, size: int, source: int) -> ResizeTaps:
        """From `source` to `size` positions, as Pillow's `precompute_coeffs`."""
        scale = source / size
        filter_scale = max(scale, 1.0)
        support = _SUPPORT * filter_scale
        taps = math.ceil(support) * 2 + 1
        centre = (np.arange(size) + 0.5) * scale
        first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
        count = np.minimum((centre + support + 0.5).astype(np.int64), source) - first
        each = np.arange(taps)
        distance = (each + first[:, None] - centre[:, None] + 0.5) * (1.0 / filter_scale)
        weight = np.where(each < count[:, None], _bicubic(distance), 0.0)
        total = np.zeros(size)
        for tap in range(taps):  # in Pillow's order, so that every rounding is the same
            total += weight[:, tap]
        weight = np.divide(weight, total[:, None], where=total[:, None] != 0, out=weight)
        whole = np.trunc(weight * 2**_BITS + np.copysign(0.5, weight)).astype(np.int32)
        return cls(np.minimum(first[:, None] + each, source - 1), whole)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """image (H, W, 3) uint8 -> (height, width, 3) uint8, on the same device."""
    sizes = height, width
    for axis in (0, 1) if _rows_first(image.shape[0], image.shape[1], height, width) else (1, 0):
        size, source = sizes[axis], image.shape[axis]
        if source != size:
            image = _resize_axis(image, axis, *_taps(size, source, image.device))
    return image


def _rows_first(source_height: int, source_width: int, height: int, width: int) -> bool:
    """Which axis Pillow resizes first; this decides about roundings between the two.

    Always the columns up to Pillow 12. From 13 on the rows, where they shrink by more than twice as
    many as the columns do (found by comparing results of all kinds of sizes).
    """
    shrunk = source_height - height
    return _PILLOW >= 13 and shrunk > 0 and shrunk > 2 * (source_width - width)


def _resize_axis(image: Tensor, axis: int, index: Tensor, weight: Tensor) -> Tensor:
    """index, weight: (taps, size)."""
    shape = (1, -1, 1) if axis == 1 else (-1, 1, 1)
    total: Tensor | None = None
    for positions, weights in zip(index, weight, strict=True):
        part = image.index_select(axis, positions) * weights.view(shape)  # int32
        total = part.add_(1 << (_BITS - 1)) if total is None else total.add_(part)
    if total is None:
        raise ValueError("got a resize without taps")
    return (total >> _BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=32)
def _taps(size: int, source: int, device: torch.device) -> tuple[Tensor, Tensor]:
    taps = ResizeTaps.of(size, source)
    return (
        torch.from_numpy(np.ascontiguousarray(taps.index.T)).to(device),
        torch.from_numpy(np.ascontiguousarray(taps.weight.T)).to(device),
    )


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pillow's `bicubic_filter`, in its order of operations."""
    x = np.abs(x)
    near = ((_CUBIC + 2.0) * x - (_CUBIC + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _CUBIC
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
