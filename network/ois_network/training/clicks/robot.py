"""The robot user of RITM, SimpleClick and SegNext, reproduced exactly with NumPy and SciPy.

Every click goes to the deepest point of a wrong region: of the missing or of the wrongly added
pixels, whichever reaches deeper. The image's border counts as an edge. See SegNext
`isegm/inference/clicker.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput

Mask = NDArray[np.bool_]

MOST_CLICKS = 20


def next_robot_click(
    target: NDArray[np.generic], predicted: NDArray[np.generic], clicks: Sequence[Click] = ()
) -> Click:
    """The robot's next click on an object.

    target: (H, W), 1 = object, 0 = background, -1 = ignored. predicted: (H, W) bool, 1 = object;
    all zero before the first click. clicks: the earlier ones; their pixels are not clicked again.
    Of several deepest pixels the first in row-major order is taken. Raises `InvalidInput` if the
    shapes differ.
    """
    if target.shape != predicted.shape or target.ndim != 2:
        raise InvalidInput(
            f"got a target of shape {target.shape} and a prediction of shape {predicted.shape}; "
            "expected the same (H, W)"
        )
    valid = target != -1
    wanted, found = target == 1, predicted.astype(bool)
    missing = inner_distance(wanted & ~found & valid)
    added = inner_distance(~wanted & found & valid)
    for click in clicks:
        row, column = int(click.y), int(click.x)
        missing[row, column] = added[row, column] = 0
    positive = bool(missing.max() > added.max())
    depth = missing if positive else added
    row, column = divmod(int(depth.argmax()), depth.shape[1])  # argmax: the first maximum
    return Click(float(column), float(row), positive)


def inner_distance(region: Mask) -> NDArray[np.float32]:
    """Exact L2 distance of each pixel to the nearest pixel outside `region` (H, W).

    Pixels outside the image are outside the region, as with OpenCV after padding by one pixel.
    """
    depth = np.zeros(region.shape, dtype=np.float32)
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if rows.size:
        # The nearest outside pixel is in the bounding box or in the frame of one pixel around it.
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        depth[box] = ndimage.distance_transform_edt(np.pad(region[box], 1))[1:-1, 1:-1]
    return depth


def intersection_over_union(target: NDArray[np.generic], predicted: NDArray[np.generic]) -> float:
    """IoU over the pixels that are not ignored (-1). It is 1 for two empty masks."""
    valid = target != -1
    wanted, found = (target == 1) & valid, predicted.astype(bool) & valid
    union = int((wanted | found).sum())
    return int((wanted & found).sum()) / union if union else 1.0


def clicks_to_reach(ious: Sequence[float], threshold: float, most: int = MOST_CLICKS) -> int:
    """NoC: the number of clicks until IoU >= threshold, or `most` if it stays below."""
    return next((n for n, iou in enumerate(ious[:most], 1) if iou >= threshold), most)
