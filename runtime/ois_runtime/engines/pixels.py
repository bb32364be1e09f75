"""Resizes images for the encoder, and logits to masks of the original image.

Images are resized by Pillow's bicubic filter, which averages when it shrinks, to the size that
`Geometry` gives. `PREPROCESS_VERSION` names both choices and is part of every cache key.

Logits are resized bilinearly with half-pixel centres, like torch's `interpolate` without
`align_corners`, and a pixel belongs to the object if the result is above 0. This needs no float
image at the mask's size: rows are blended and compared in blocks that share two source rows, and
only near positive logits, because a bilinear value is positive only if one of its four logits is.
The result is exact, and 2 to 12 times faster than Pillow's resize.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.errors import InvalidImage, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import Picture


def preprocess(
    image: Picture | NDArray[np.uint8], fit: Callable[[int, int], Geometry]
) -> tuple[NDArray[np.uint8], Geometry]:
    """Resize a `Picture`, or pixels (H, W, 3) uint8 RGB, to network size: (h, w, 3) uint8 RGB.

    fit: width and height of the image -> its geometry, such as `Manifest.fit`.
    Raises `InvalidImage` if the picture cannot be decoded, or the pixels have another shape or
    dtype.
    """
    pixels = pixels_of(image)
    height, width = pixels.shape[:2]
    geometry = fit(width, height)
    return resize(pixels, geometry), geometry


def pixels_of(image: Picture | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) uint8 RGB of an image, decoded if necessary. Errors as `preprocess`."""
    pixels = image.pixels() if isinstance(image, Picture) else image
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise InvalidImage(
            f"got pixels of shape {pixels.shape} and type {pixels.dtype}; expected (H, W, 3) "
            "uint8, RGB"
        )
    return np.ascontiguousarray(pixels)


def resize(pixels: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) uint8 -> (h, w, 3) uint8 at network size."""
    size = (geometry.network_width, geometry.network_height)
    if pixels.shape[1::-1] == size:
        return pixels
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def postprocess(logits: NDArray[np.floating], geometry: Geometry) -> NDArray[np.uint8]:
    """Make masks (N, H, W) uint8, 1 = object, from logits (N, h, w) at network size.

    Works on one object at a time to limit memory. Raises `InvalidInput` if the shape is wrong.
    """
    shape = (geometry.network_height, geometry.network_width)
    if logits.ndim != 3 or logits.shape[1:] != shape:
        raise InvalidInput(
            f"got logits of shape {logits.shape}; expected (N, {shape[0]}, {shape[1]})"
        )
    return masks_of_grid(logits, geometry)


def masks_of_grid(logits: NDArray[np.floating], geometry: Geometry) -> NDArray[np.uint8]:
    """`postprocess` of logits (N, rows, columns) on any grid over the image."""
    masks = np.zeros((len(logits), geometry.height, geometry.width), dtype=np.uint8)
    rows = Taps.of(geometry.height, logits.shape[1])
    columns = Taps.of(geometry.width, logits.shape[2])
    for mask, one in zip(masks, logits, strict=True):
        _fill(mask.view(np.bool_), np.asarray(one, dtype=np.float32), rows, columns)
    return masks


class Taps:
    """Two neighbouring source indices and their weights for each output position of a resize."""

    def __init__(
        self, low: NDArray[np.int64], high: NDArray[np.int64], fraction: NDArray[np.float64]
    ) -> None:
        self.low = low
        self.high = high
        self.high_weight = fraction.astype(np.float32)
        # Both weights are at least 0, so blending non-positive logits cannot give a positive value.
        self.low_weight = (1 - fraction).astype(np.float32)

    @classmethod
    def of(cls, size: int, source: int) -> Taps:
        position = (np.arange(size, dtype=np.float64) + 0.5) * (source / size) - 0.5
        position = np.clip(position, 0, source - 1)
        low = np.floor(position).astype(np.int64)
        return cls(low, np.minimum(low + 1, source - 1), position - low)

    def touched_by(self, positive: NDArray[np.bool_]) -> slice:
        """The range of output positions that read a positive source index."""
        touched = np.flatnonzero(positive[self.low] | positive[self.high])
        return slice(touched[0], touched[-1] + 1) if touched.size else slice(0, 0)


def _fill(mask: NDArray[np.bool_], logits: NDArray[np.float32], rows: Taps, columns: Taps) -> None:
    """Set the pixels of mask (H, W), all False, whose value blended from logits (h, w) is > 0."""
    positive = logits > 0
    ys, xs = rows.touched_by(positive.any(axis=1)), columns.touched_by(positive.any(axis=0))
    if ys.start == ys.stop:
        return
    first = rows.low[ys.start]
    needed = logits[first : rows.high[ys.stop - 1] + 1]
    wide = needed[:, columns.low[xs]] * columns.low_weight[xs]
    wide += needed[:, columns.high[xs]] * columns.high_weight[xs]
    # Output rows that read the same two source rows form one block.
    breaks = ys.start + 1 + np.flatnonzero(np.diff(rows.low[ys]))
    for start, stop in zip([ys.start, *breaks], [*breaks, ys.stop], strict=True):
        upper, lower = wide[rows.low[start] - first], wide[rows.high[start] - first]
        block = upper * rows.low_weight[start:stop, None]
        block += lower * rows.high_weight[start:stop, None]
        np.greater(block, 0, out=mask[start:stop, xs])
