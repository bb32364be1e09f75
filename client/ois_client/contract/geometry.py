"""The mapping between the original image, the network's input and its patch grid.

Three coordinate frames, all with pixel centres at integers:

    image    (W, H)            the original after EXIF orientation; frame of clicks and masks
    network  (w, h)            the encoder's input; both sides are multiples of the patch size
    grid     (gw, gh)          one cell per ViT patch; w = gw * patch, h = gh * patch

The image is resized without padding, as in Depth-Anything-V2: the longest side becomes `longest`,
the other side the nearest multiple of the patch size. So the scales of x and y differ slightly
(by less than half a patch over the short side).

`PREPROCESS_VERSION` names this mapping and the resampling filter. It is part of every cache key
and manifest, so that features and clicks of different versions are never combined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidImage, InvalidInput

PREPROCESS_VERSION = "1:longest-side,nearest-patch,pillow-bicubic"

#: DINOv2 adds this to the grid before it derives the scale of its position table, so that
#: floor() lands on the wanted size. It moves the sampling positions and must be kept.
DINOV2_POSITION_OFFSET = 0.1

_CUBIC_A = -0.75  # the kernel constant of torch's bicubic interpolation


@dataclass(frozen=True, slots=True)
class Geometry:
    """The mapping image <-> network <-> patch grid for one image size.

    Create it with `Geometry.fit`. The fields are plain integers, so it can be written as JSON.
    """

    width: int
    height: int
    grid_width: int
    grid_height: int
    patch: int = 14
    coverage_scale: int = 1  # cells of the coverage along each side of a patch

    @classmethod
    def fit(
        cls, width: int, height: int, *, longest: int, patch: int = 14, coverage_scale: int = 1
    ) -> Geometry:
        """The geometry of a `width` x `height` image for a network of `longest` pixels.

        Raises `InvalidImage` if the image is empty and `InvalidInput` if `longest` is not a
        positive multiple of `patch`.
        """
        if width < 1 or height < 1:
            raise InvalidImage(
                f"image is {width}x{height} pixels; both sides must be at least 1 pixel"
            )
        if patch < 1 or longest < patch or longest % patch:
            raise InvalidInput(
                f"network size {longest} is not a positive multiple of the patch size {patch}"
            )
        scale = longest / max(width, height)

        def cells(side: int) -> int:
            return max(1, int(side * scale / patch + 0.5))

        return cls(width, height, cells(width), cells(height), patch, coverage_scale)

    @property
    def network_width(self) -> int:
        return self.grid_width * self.patch

    @property
    def network_height(self) -> int:
        return self.grid_height * self.patch

    @property
    def coverage_shape(self) -> tuple[int, int]:
        """(rows, columns) of the coverage of a mask (`coverage.py`)."""
        return self.grid_height * self.coverage_scale, self.grid_width * self.coverage_scale

    def to_network(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """points: (..., 2), (x, y) in image pixels -> float32, (x, y) in network pixels."""
        points = np.asarray(points, dtype=np.float64)
        return ((points + 0.5) * self._scale() - 0.5).astype(np.float32)

    def to_image(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """points: (..., 2), (x, y) in network pixels -> float32, (x, y) in image pixels."""
        points = np.asarray(points, dtype=np.float64)
        return ((points + 0.5) / self._scale() - 0.5).astype(np.float32)

    def to_grid(self, points: NDArray[np.floating]) -> NDArray[np.int64]:
        """points: (..., 2), (x, y) in image pixels -> int64, (column, row) of the patch."""
        cell = np.floor((self.to_network(points).astype(np.float64) + 0.5) / self.patch)
        limit = np.array([self.grid_width - 1, self.grid_height - 1])
        return np.clip(cell, 0, limit).astype(np.int64)

    def position_matrices(
        self, table: int = 37, offset: float = DINOV2_POSITION_OFFSET
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Matrices R (gh, table) and C (gw, table): `R P Cᵀ` resizes the position table P.

        This equals DINOv2's bicubic interpolation, which is linear and separable. As in DINOv2,
        a square grid of the table's own size leaves the table unchanged.
        """
        if self.grid_width == self.grid_height == table:
            identity = np.eye(table, dtype=np.float32)
            return identity, identity
        rows = bicubic_matrix(self.grid_height, table, offset=offset)
        return rows, bicubic_matrix(self.grid_width, table, offset=offset)

    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.network_width / self.width, self.network_height / self.height])


def bicubic_matrix(size: int, table: int, *, offset: float = 0.0) -> NDArray[np.float32]:
    """A (size, table) float32 matrix that resizes a table as torch's bicubic interpolation does.

    offset: as in DINOv2, the scale is `(size + offset) / table` instead of `size / table`.
    Pixel centres are at half pixels, borders are clamped, and there is no antialiasing.
    """
    scale = table / (size + offset)
    source = (np.arange(size, dtype=np.float64) + 0.5) * scale - 0.5
    first = np.floor(source).astype(np.int64)
    fraction = source - first
    matrix = np.zeros((size, table), dtype=np.float64)
    rows = np.arange(size)
    for tap in range(-1, 3):
        weight = _cubic(np.abs(fraction - tap))
        np.add.at(matrix, (rows, np.clip(first + tap, 0, table - 1)), weight)
    return matrix.astype(np.float32)


def _cubic(t: NDArray[np.float64]) -> NDArray[np.float64]:
    a = _CUBIC_A
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))
