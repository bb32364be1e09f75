"""Boundary IoU (Cheng et al., CVPR 2021): IoU of the pixels near the masks' own boundaries.

IoU hardly notices a coarse outline of a large object. Boundary IoU compares only the pixels of each
mask that lie within a distance of that mask's outline. Masks are eroded as in the authors' code:
by a square, and the border of the image counts as an outline.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

#: Pixels: an outline as exact as an annotator can draw it.
NEAR = 2
#: The paper's distance, as a share of the image's diagonal.
SHARE = 0.02


class Boundary:
    """The boundary of a target, to compare masks with.

    target: (H, W) bool, 1 = object.
    """

    def __init__(self, target: Mask) -> None:
        self.distances = (NEAR, paper_distance(*target.shape))
        self._depth = depth_of(target)

    def ious(self, mask: NDArray[np.generic]) -> tuple[float, float]:
        """Boundary IoU of (H, W) 0/1 at both distances: `NEAR` pixels and the paper's.

        It is 1 for two empty masks.
        """
        depth = depth_of(mask.astype(bool))
        near, paper = (_iou(self._depth, depth, distance) for distance in self.distances)
        return near, paper


def paper_distance(height: int, width: int) -> int:
    """2 % of the diagonal in pixels, at least 1."""
    return max(1, round(SHARE * math.hypot(height, width)))


def depth_of(mask: Mask) -> NDArray[np.int32]:
    """(H, W): how many erosions by 3x3 pixels remove each pixel of the mask; 0 outside of it."""
    depth = np.zeros(mask.shape, dtype=np.int32)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size:
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        depth[box] = ndimage.distance_transform_cdt(np.pad(mask[box], 1), "chessboard")[1:-1, 1:-1]
    return depth


def _iou(one: NDArray[np.int32], other: NDArray[np.int32], distance: int) -> float:
    first, second = ((depth > 0) & (depth <= distance) for depth in (one, other))
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0
