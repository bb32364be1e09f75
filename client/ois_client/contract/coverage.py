"""Coverage: the previous mask at reduced size, as the network sees it.

`coverage (s gh, s gw) uint8` is the fraction of each cell that the mask covers, scaled to 0..255.
There are s x s cells per patch of the encoder: s = 1 for the paper's networks, whose attention
alone uses it, and 4 for networks with fine prompts (`coverage_scale` in the metadata).
The network distinguishes three cases: 0 means that the cell has *no* foreground pixel, 255 that
it has *no* background pixel, and every other value that it has both. So thin structures such as
a fence survive the reduction, and patches on the boundary count for both sides (paper Eq. 4, 5).
Every click request carries this array, so the server stores no masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry


def coverage_of_mask(mask: NDArray[np.generic], geometry: Geometry) -> NDArray[np.uint8]:
    """mask: (H, W) bool or 0/1 in the original image, 1 = object -> coverage uint8, of shape
    `geometry.coverage_shape`.

    Raises `InvalidInput` if the mask does not have the image's shape.
    """
    if mask.shape != (geometry.height, geometry.width):
        raise InvalidInput(
            f"got a mask of shape {mask.shape}; expected (H, W) = "
            f"{(geometry.height, geometry.width)}, the size of the image it belongs to"
        )
    rows = _cells(geometry.height, geometry.coverage_shape[0])
    columns = _cells(geometry.width, geometry.coverage_shape[1])
    covered = _sums(_sums((mask != 0).view(np.uint8), rows, 0), columns, 1)  # pixels per cell
    pixels = np.outer(rows[1] - rows[0], columns[1] - columns[0])
    inner = np.clip(np.rint(covered * (255 / pixels)), 1, 254)
    return np.where(covered == 0, 0, np.where(covered == pixels, 255, inner)).astype(np.uint8)


def _cells(size: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide `size` pixels into `count` equal cells -> the first pixel of each, and the end.

    A pixel belongs to the cell of its centre, or to the earlier one if the centre is on an edge.
    Cells smaller than a pixel have the pixel that they lie in. In integers, because rounded
    edges can leave a pixel in no cell.
    """
    edge = np.arange(count + 1, dtype=np.int64)
    first = (2 * size * edge - count) // (2 * count) + 1
    start, end = first[:-1], first[1:]
    nearest = (2 * edge[:-1] + 1) * size // (2 * count)
    empty = start == end
    return np.where(empty, nearest, start), np.where(empty, nearest + 1, end)


def _sums(
    values: NDArray[Any], cells: tuple[NDArray[np.int64], NDArray[np.int64]], axis: int
) -> NDArray[np.int64]:
    """Sum `values` (two axes) over each cell of one axis."""
    start, end = cells
    if np.array_equal(start[1:], end[:-1]):
        return np.add.reduceat(values, start, axis=axis, dtype=np.int64)
    return np.take(values, start, axis=axis).astype(np.int64)  # cells of one pixel each
