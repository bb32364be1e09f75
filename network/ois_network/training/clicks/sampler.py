"""Simulated clicks for training: RITM's sampler as SegNext uses it, with NumPy and SciPy.

The first clicks come from the multi-point sampler, later ones from a region where the prediction
is wrong. Masks have network size; points are (x, y) in network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ois_client.contract.clicks import EMPTY, NEGATIVE, POSITIVE, SLOTS, SLOTS_PER_SIGN

Mask = NDArray[np.bool_]

#: Positives fall anywhere on an object of which erosion leaves at most this many pixels (SegNext).
_WORTH_ERODING = 10


@dataclass(frozen=True, slots=True)
class ClickConfig:
    """Defaults are SegNext's: MultiPointSampler and trainer of its `plainvit_base1024` models."""

    most: int = SLOTS_PER_SIGN  # points per sign, SegNext max_num_points=24
    gamma: float = 0.80  # each further point is less likely by this factor, SegNext prob_gamma
    erode: int = 3  # positives keep this distance from the outline, in `erode_share` of objects
    erode_share: float = 0.9
    background: float = 0.1  # shares of negatives: anywhere outside the object,
    other: float = 0.4  # on other objects,
    border: float = 0.5  # or near its outline
    border_reach: float = 0.1  # near: at most this far, times sqrt(area)
    single_share: float = 0.0  # share of objects that start with one click, deep inside
    rounds: int = 3  # most rounds without gradient before the one with
    stride: int = 1  # error regions are measured on every n-th pixel

    def __post_init__(self) -> None:
        from ois_client.contract.errors import InvalidInput

        if not 1 <= self.most <= SLOTS_PER_SIGN:
            raise InvalidInput(f"got clicks.most={self.most}; expected 1..{SLOTS_PER_SIGN}")
        if not 0 < self.gamma <= 1 or self.stride < 1 or self.rounds < 0:
            raise InvalidInput(
                f"got clicks.gamma={self.gamma}, stride={self.stride}, rounds={self.rounds}; "
                "expected 0 < gamma <= 1, stride >= 1, rounds >= 0"
            )


def first_clicks(
    target: Mask, others: Mask, rng: np.random.Generator, config: ClickConfig
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The first clicks on an object: points (48, 2) and labels (48).

    target, others: (h, w), 1 = the object and 1 = other objects. `target` must not be empty: the
    first positive click is always on it.
    """
    points = np.zeros((SLOTS, 2), dtype=np.float32)
    labels = np.full(SLOTS, EMPTY, dtype=np.int32)
    if rng.random() < config.single_share:
        points[0] = deepest_region_click(target, rng, config.stride)
        labels[0] = POSITIVE
        return points, labels
    weights = config.gamma ** np.arange(config.most)
    positives = 1 + int(rng.choice(config.most, p=weights / weights.sum()))
    weights = config.gamma ** np.arange(config.most + 1)
    negatives = int(rng.choice(config.most + 1, p=weights / weights.sum()))
    inner = target
    if rng.random() < config.erode_share:
        # The chessboard distance gives the same pixels as repeated 3x3 erosion.
        eroded = ndimage.distance_transform_cdt(target, metric="chessboard") > config.erode
        if eroded.sum() > _WORTH_ERODING:
            inner = eroded
    for slot, point in enumerate(_draw(inner, positives, rng)):
        points[slot], labels[slot] = point, POSITIVE
    for slot, point in enumerate(_negatives(target, others, negatives, rng, config)):
        points[SLOTS_PER_SIGN + slot], labels[SLOTS_PER_SIGN + slot] = point, NEGATIVE
    return points, labels


def deepest_region_click(
    region: Mask, rng: np.random.Generator, stride: int = 1
) -> NDArray[np.float32]:
    """A random pixel (x, y) of `region`, more than half as deep inside it as its deepest pixel."""
    depth = _depth_inside(region, stride)
    return _random_pixel(depth > depth.max() / 2, rng, stride, region)


def next_click(
    target: Mask, predicted: Mask, rng: np.random.Generator, stride: int = 1
) -> tuple[NDArray[np.float32], int] | None:
    """The next simulated click (x, y) and its label, or None if the prediction is right.

    Of the missing and the wrongly added pixels, it corrects those that reach deeper, at a random
    pixel deeper than half their depth (RITM `get_next_points`).
    """
    missing, added = target & ~predicted, predicted & ~target
    missing_depth, added_depth = _depth_inside(missing, stride), _depth_inside(added, stride)
    positive = missing_depth.max() > added_depth.max()
    depth, region = (missing_depth, missing) if positive else (added_depth, added)
    if not depth.max() > 0:
        if stride > 1:  # the error is thinner than the stride
            return next_click(target, predicted, rng, 1)
        return None
    point = _random_pixel(depth > depth.max() / 2, rng, stride, region)
    return point, POSITIVE if positive else NEGATIVE


def add_click(
    points: NDArray[np.float32], labels: NDArray[np.int32], point: NDArray[np.float32], label: int
) -> None:
    """Put a click into the first empty slot of its sign, or else into the last, in place."""
    first = 0 if label == POSITIVE else SLOTS_PER_SIGN
    half = labels[first : first + SLOTS_PER_SIGN]
    empty = np.flatnonzero(half == EMPTY)
    slot = first + (int(empty[0]) if empty.size else SLOTS_PER_SIGN - 1)
    points[slot], labels[slot] = point, label


def _depth_inside(region: Mask, stride: int) -> NDArray[np.float64]:
    """Euclidean distance to the outside of the region; outside the image is outside."""
    sampled = region[::stride, ::stride]
    depth = np.zeros(sampled.shape, dtype=np.float64)
    rows, columns = np.flatnonzero(sampled.any(1)), np.flatnonzero(sampled.any(0))
    if rows.size:
        # The bounding box and a frame of one pixel around it are enough.
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        depth[box] = ndimage.distance_transform_edt(np.pad(sampled[box], 1))[1:-1, 1:-1]
    return depth


def _random_pixel(
    allowed: Mask, rng: np.random.Generator, stride: int, fallback: Mask
) -> NDArray[np.float32]:
    flat = np.flatnonzero(allowed)
    if not flat.size:
        return _draw(fallback, 1, rng)[0]
    row, column = divmod(int(flat[rng.integers(flat.size)]), allowed.shape[1])
    return np.array([column * stride, row * stride], dtype=np.float32)


def _draw(region: Mask, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """`count` random pixels of `region`, (count, 2) as (x, y); none if the region is empty."""
    flat = np.flatnonzero(region)
    if not flat.size or not count:
        return np.zeros((0, 2), dtype=np.float32)
    chosen = flat[rng.integers(flat.size, size=count)]
    rows, columns = np.divmod(chosen, region.shape[1])
    return np.stack((columns, rows), axis=1).astype(np.float32)


def _negatives(
    target: Mask, others: Mask, count: int, rng: np.random.Generator, config: ClickConfig
) -> NDArray[np.float32]:
    if not count:
        return np.zeros((0, 2), dtype=np.float32)
    outside = ~target
    kinds = rng.choice(3, size=count, p=[config.background, config.other, config.border])
    other = others & outside
    # If the image has no other object, SegNext draws these from the background.
    regions: list[Mask] = [outside, other if other.any() else outside, outside]
    if (kinds == 2).any() and outside.any():
        reach = int(np.ceil(config.border_reach * np.sqrt(target.sum())))
        near = ndimage.distance_transform_cdt(outside, metric="chessboard") <= reach
        regions[2] = near & outside
    drawn = [_draw(regions[kind], int((kinds == kind).sum()), rng) for kind in range(3)]
    return np.concatenate(drawn)
