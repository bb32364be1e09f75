"""Which part of each map the decoder's tail needs for a box of patches, and how it is enlarged.

The tail is a chain along each axis (`ois_network/region.py`):

    4x grid     two 3x3 convolutions
       │ rows8
    8x grid     one 3x3 convolution
       │ rows_out (none if both have the same size)
    output      one 3x3 convolution; three with a map of details
       │ rows_full (none if the output has network size)
    network     the logits of the box

For a box of patches, a *window* is cut from each map. It is larger than the box by a margin, which
covers what upsampling and convolutions read. A window is moved, not cut off, if it would leave the
map: its size then depends only on the size of the box, and engines meet few shapes. Rows of a
window that the box does not need may be wrong; the margins keep them away from the box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Cells of `path` along each side of a patch.
CELLS = 4


@dataclass(frozen=True, slots=True)
class TailForm:
    """What the windows of a network's tail depend on.

    patch: network pixels. stride: of the last convolutions. aligned: how maps are enlarged, see
    `ois_network.config.NetworkConfig.aligned_corners`. detail: the name of the map of details in
    the image state, or None.
    """

    patch: int
    stride: int
    aligned: bool
    detail: str | None = None

    @property
    def resizes_output(self) -> bool:
        """Whether the last convolutions have another size than the 8x grid."""
        return self.patch != 2 * CELLS * self.stride

    @property
    def margins(self) -> tuple[int, int, int]:
        """By how much the windows of the output, the 8x grid and the 4x grid exceed the box.

        The first two are whole patches, so that a window is a number of tiles.
        """
        output = 1 + (self.stride > 1) + 2 * (self.detail is not None)
        if self.resizes_output:
            eight = math.ceil(output * 2 * CELLS * self.stride / self.patch) + 3
        else:
            eight = output + 1  # one window, for one more convolution
        return (
            _up_to(output, self.patch // self.stride),
            _up_to(eight, 2 * CELLS),
            math.ceil(eight / 2 + 0.5) + 2,
        )


def _up_to(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """A sparse matrix as T small ones, each for m samples: sample t * m + i of the result is
    matrices[t, i] @ source[cells[t]].

    matrices (T, m, k) float32, cells (T, k) int64.
    """

    matrices: NDArray[np.float32]
    cells: NDArray[np.int64]

    @classmethod
    def of(cls, matrix: NDArray[np.float32], samples: int, cells: int) -> Tiles:
        """matrix (A, a), A a multiple of `samples`, of which every `samples` rows read `cells`."""
        size, source = matrix.shape
        count, cells = size // samples, min(cells, source)
        blocks = matrix.reshape(count, samples, source)
        first = np.minimum(blocks.any(axis=1).argmax(axis=1), source - cells)
        places = first[:, None] + np.arange(cells)
        parts = np.take_along_axis(blocks, places[:, None, :], axis=2)
        return cls(_fixed(parts), _fixed(places))


def _fixed(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """The windows of `count` patches from patch `first` on, along one axis with `total` patches.

    path, output: of the maps. inner: of the result, the pixels of the box. to_eight, to_output:
    upsamplings in tiles of a patch. to_full: a matrix (size, size before), float32. None if that
    step does not exist.
    """

    path: slice
    output: slice
    inner: slice
    to_eight: Tiles
    to_output: Tiles | None
    to_full: NDArray[np.float32] | None

    def named(self, axis: str) -> dict[str, NDArray[Any]]:
        """The matrices as inputs of `ois_network.region.RegionTail`; axis: rows or columns."""
        given: dict[str, NDArray[Any]] = {}
        for suffix, tiles in (("8", self.to_eight), ("_out", self.to_output)):
            if tiles is not None:
                given[axis + suffix] = tiles.matrices
                given[f"{axis}{suffix}_from"] = tiles.cells
        if self.to_full is not None:
            given[f"{axis}_full"] = self.to_full
        return given

    @classmethod
    def of(cls, form: TailForm, total: int, first: int, count: int) -> Windows:
        """Cached."""
        return _windows(form, total, first, count)


@lru_cache(maxsize=512)
def _windows(form: TailForm, total: int, first: int, count: int) -> Windows:
    patch, stride = form.patch, form.stride
    margins = form.margins

    def window(cells: int, margin: int) -> slice:
        """Of a map with `cells` per patch."""
        size = min(count * cells + 2 * margin, total * cells)
        start = min(max(first * cells - margin, 0), total * cells - size)
        return slice(start, start + size)

    output = window(patch // stride, margins[0])
    eight = window(2 * CELLS, margins[1]) if form.resizes_output else output
    path = window(CELLS, margins[2])
    sizes = (total * CELLS, total * 2 * CELLS, total * patch // stride, total * patch)
    box = slice(first * patch, (first + count) * patch)

    def matrix(to: slice, of: slice, step: int) -> NDArray[np.float32]:
        return upsampling(to, of, sizes[step + 1], sizes[step], aligned=form.aligned)

    def tiles(to: slice, of: slice, step: int) -> Tiles:
        samples, cells = sizes[step + 1] // total, sizes[step] // total
        return Tiles.of(matrix(to, of, step), samples, (samples - 1) * cells // samples + 3)

    full = stride > 1
    inner = slice(0, box.stop - box.start)
    if not full:
        inner = slice(box.start - output.start, box.stop - output.start)
    return Windows(
        path=path,
        output=output,
        inner=inner,
        to_eight=tiles(eight, path, 0),
        to_output=tiles(output, eight, 1) if form.resizes_output else None,
        to_full=matrix(box, output, 2) if full else None,
    )


def upsampling(
    to: slice, of: slice, size: int, source: int, *, aligned: bool
) -> NDArray[np.float32]:
    """The matrix of a bilinear upsampling from `source` to `size` samples, for a window of each.

    Shape (length of `to`, length of `of`). What a sample would read outside `of` is taken from the
    nearest sample inside.
    """
    place = np.arange(to.start, to.stop, dtype=np.float64)
    if aligned:
        place = place * ((source - 1) / (size - 1) if size > 1 else 0.0)
    else:
        place = np.clip((place + 0.5) * (source / size) - 0.5, 0, source - 1)
    low = np.minimum(np.floor(place).astype(np.int64), max(source - 2, 0))
    fraction = place - low
    matrix = np.zeros((len(place), of.stop - of.start), dtype=np.float64)
    rows, last = np.arange(len(place)), of.stop - of.start - 1
    np.add.at(matrix, (rows, np.clip(low - of.start, 0, last)), 1 - fraction)
    np.add.at(matrix, (rows, np.clip(low + 1 - of.start, 0, last)), fraction)
    return _fixed(matrix.astype(np.float32))
