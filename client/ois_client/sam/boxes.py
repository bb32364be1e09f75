"""Boxes as clicks: the rule by which `OISPredictor(..., boxes="clicks")` reads a box.

The network's prompts are clicks, so a box becomes what a person would click to mean it: a
positive click on its centre, and negative clicks just outside its corners. "Just outside" is
`MARGIN` of the box's sides, at least two pixels. Corners that lie outside the image then are left
out, because an object may touch the edge.

The centre need not lie on the object (a ring, a bow), which clicks cannot express.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ois_client.contract.errors import InvalidInput

#: Distance of the negative clicks from the corners, as a share of the box's width and height.
MARGIN = 0.05
_LEAST_PX = 2.0
_CORNERS = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])


def clicks_of_box(
    box: ArrayLike, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The clicks that stand for a box -> points (5, 2) in image pixels and labels (5).

    box: (x1, y1, x2, y2) in image pixels, as SAM's. Parts outside the image are cut off. Labels
    are 1, 0, or -1 for a corner outside the image, whose point is (0, 0). Raises `InvalidInput` if
    it is not four finite numbers with x1 < x2 and y1 < y2, or lies outside the image.
    """
    try:
        given = np.asarray(box, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        given = np.zeros(0)
    if given.shape != (4,) or not np.isfinite(given).all() or (given[2:] <= given[:2]).any():
        raise InvalidInput(
            f"got the box {box!r}; expected (x1, y1, x2, y2) in image pixels with x1 < x2 and "
            "y1 < y2"
        )
    last = np.array([width - 1, height - 1], dtype=np.float64)
    low, high = np.clip(given[:2], 0, last), np.clip(given[2:], 0, last)
    if (given[:2] > last).any() or (given[2:] < 0).any():
        raise InvalidInput(
            f"got the box {given.tolist()}, which lies outside the image of {width}x{height} pixels"
        )
    margin = np.maximum(MARGIN * (given[2:] - given[:2]), _LEAST_PX)
    corners = np.where(_CORNERS == 0, given[:2] - margin, given[2:] + margin)
    inside = ((corners >= 0) & (corners <= last)).all(axis=1)
    points = np.vstack([(low + high) / 2, np.where(inside[:, None], corners, 0)])
    labels = np.concatenate([[1], np.where(inside, 0, -1)])
    return points.astype(np.float32), labels.astype(np.int32)
