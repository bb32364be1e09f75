"""Converts masks to outlines and back.

Outlines run along pixel edges: the pixel in column c and row r covers c..c+1 and r..r+1, as on
a browser's canvas and in COCO's polygons. Clicks differ by half a pixel: their pixel centres are
at integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import MAX_PIXELS, Mask, check_mask


@dataclass(frozen=True, slots=True, eq=False)
class Ring:
    """One closed outline.

    points: (K, 2) float64, (x, y); the last point is connected to the first.
    hole: whether the outline is that of background inside an object.
    """

    points: NDArray[np.float64]
    hole: bool


def rings_of_mask(mask: NDArray[np.generic], tolerance_px: float = 0.0) -> list[Ring]:
    """(H, W) bool or 0/1 -> the outlines of its objects and holes, from top to bottom.

    Pixels that touch only at a corner are not connected. With `tolerance_px` 0 the rings are
    exact: `mask_of_rings` returns the same mask. Otherwise they are simplified to within that
    distance (Douglas-Peucker); a ring that would have fewer than 3 points stays exact.

    Raises `InvalidInput` if it is not a mask or the tolerance is below 0.
    """
    mask = check_mask(mask)
    if not tolerance_px >= 0:
        raise InvalidInput(f"got a tolerance of {tolerance_px} pixels; expected 0 or more")
    rings = []
    for corners in _walk(mask):
        x, y = corners[0]
        hole = mask[y, x] == 0  # the first corner is the top left, so this pixel is inside
        points = corners.astype(np.float64)
        fewer = simplify(points, tolerance_px) if tolerance_px else points
        rings.append(Ring(fewer if len(fewer) > 2 else points, bool(hole)))
    return rings


def mask_of_rings(rings: Iterable[Ring], width: int, height: int) -> Mask:
    """Outlines -> (H, W) uint8, 1 where a pixel's centre lies inside an odd number of rings.

    Parts outside the image are cut off. Raises `InvalidInput` if points are not (K, 2) finite
    numbers or the size is not that of a mask.
    """
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InvalidInput(
            f"got a mask of {width}x{height} pixels; expected between 1 and {MAX_PIXELS} pixels"
        )
    starts, stops = [np.empty((0, 2))], [np.empty((0, 2))]
    for ring in rings:
        points = np.asarray(ring.points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise InvalidInput(
                f"got an outline of shape {points.shape}; expected (K, 2) finite numbers"
            )
        starts.append(points)
        stops += [points[1:], points[:1]]
    rows, columns = _crossings(np.concatenate(starts), np.concatenate(stops), width, height)
    # A toggle inverts all pixels to its right. The last column is outside the image.
    toggles = np.zeros((height, width + 1), dtype=np.uint8)
    np.bitwise_xor.at(toggles, (rows, columns), 1)
    return np.ascontiguousarray(np.bitwise_xor.accumulate(toggles, axis=1)[:, :width])


def simplify(points: NDArray[np.float64], tolerance_px: float) -> NDArray[np.float64]:
    """Simplify a closed ring, (K, 2) points, to within the tolerance (Douglas-Peucker)."""
    far = int(np.argmax(((points - points[0]) ** 2).sum(axis=1)))
    closed = np.concatenate([points, points[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far, -1]] = True
    spans = [(0, far), (far, len(points))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        between = closed[first + 1 : last] - closed[first]
        along = closed[last] - closed[first]
        length = float(np.hypot(*along))
        if length:
            # The distance is to the segment, so points past its ends project onto an end.
            place = np.clip(between @ along / length**2, 0, 1)
            between = between - place[:, None] * along
        distance = np.hypot(between[:, 0], between[:, 1])
        worst = int(np.argmax(distance))
        if distance[worst] > tolerance_px:
            middle = first + 1 + worst
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return points[keep[:-1]]


def _walk(mask: Mask) -> list[NDArray[np.int64]]:
    """The corners of each ring, (K, 2), (x, y), in order, from the top left corner to the right.

    On each horizontal or vertical line of pixel edges, the first and second corner are the ends of
    one side of a ring, the third and fourth of the next, and so on. A corner at which two pixels
    touch diagonally counts twice.
    """
    padded = np.pad(mask, 1).astype(bool)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    touching = (upper_left == lower_right) & (upper_right == lower_left)
    touching &= upper_left != upper_right
    ys, xs = np.nonzero(touching | (upper_left ^ upper_right ^ lower_left ^ lower_right))
    twice = touching[ys, xs]
    times = 1 + twice
    is_second = np.zeros(int(times.sum()), dtype=bool)
    is_second[np.cumsum(times)[twice] - 1] = True
    x, y = np.repeat(xs, times), np.repeat(ys, times)
    # Of a corner that counts twice, the first ends the side on its left, the second begins the
    # side on its right. The one on the boundary of the pixel above is connected upwards.
    goes_down = is_second == np.repeat(upper_left[ys, xs], times)
    down_the_columns = np.lexsort((goes_down, y, x))
    below_or_above = np.empty_like(down_the_columns)
    below_or_above[down_the_columns[0::2]] = down_the_columns[1::2]
    below_or_above[down_the_columns[1::2]] = down_the_columns[0::2]

    vertical = below_or_above.tolist()
    seen = bytearray(len(vertical))
    order, ends = [], []
    for first in range(len(vertical)):
        if seen[first]:
            continue
        here = first
        while not seen[here]:
            beside = here ^ 1  # corners are sorted by row, so the ends of a side are neighbours
            seen[here] = seen[beside] = 1
            order += [here, beside]
            here = vertical[beside]
        ends.append(len(order))
    return np.split(np.stack([x, y], axis=1)[order], ends[:-1]) if ends else []


def _crossings(
    start: NDArray[np.float64], stop: NDArray[np.float64], width: int, height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where sides from `start` to `stop`, (K, 2), cross the rows of pixel centres.

    Returns the rows, and per crossing the first column whose centre is not left of it.
    """
    upwards = start[:, 1] > stop[:, 1]
    high = np.where(upwards[:, None], stop, start)
    low = np.where(upwards[:, None], start, stop)
    first = np.clip(np.ceil(high[:, 1] - 0.5), 0, height).astype(np.int64)
    beyond = np.clip(np.ceil(low[:, 1] - 0.5), 0, height).astype(np.int64)
    count = beyond - first
    side = np.repeat(np.arange(len(start)), count)
    rows = np.arange(side.size) - np.repeat(np.cumsum(count) - count, count) + first[side]
    slope = (low[side, 0] - high[side, 0]) / (low[side, 1] - high[side, 1])
    x = high[side, 0] + (rows + 0.5 - high[side, 1]) * slope
    return rows, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
