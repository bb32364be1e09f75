"""What a mask's logits tell beside the mask. Everywhere above 0 is object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, h, w) -> (N), 0..1: the mean probability of each mask's own pixels, 0 for an empty one.

    How sure the network is of what it marked. Not an estimate of the IoU: this network makes none.
    """
    scores = np.zeros(len(logits), dtype=np.float32)
    for row, one in enumerate(logits):
        inside = one[one > 0].astype(np.float64)
        if inside.size:
            scores[row] = (1 / (1 + np.exp(-inside))).mean()
    return scores


def stability(logits: NDArray[np.float32], offset: float) -> NDArray[np.float32]:
    """(N, h, w) -> (N), 0..1: IoU of the masks cut at +offset and at -offset, 0 for empty ones.

    As SAM's automatic mask generator defines it, here at the network's size.
    """
    inner = (logits > offset).sum(axis=(1, 2))
    outer = (logits > -offset).sum(axis=(1, 2))
    return (inner / np.maximum(outer, 1)).astype(np.float32)


def enlarge(logits: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """(h, w) -> (height, width), bilinear with half-pixel centres, as masks are made of logits."""

    def taps(size: int, source: int) -> tuple[Any, Any, Any, Any]:
        position = (np.arange(size) + 0.5) * (source / size) - 0.5
        position = np.clip(position, 0, source - 1)
        low = np.floor(position).astype(np.int64)
        high = position - low
        weights = (1 - high).astype(np.float32), high.astype(np.float32)
        return low, np.minimum(low + 1, source - 1), *weights

    left, right, at_left, at_right = taps(width, logits.shape[1])
    upper, lower, at_upper, at_lower = taps(height, logits.shape[0])
    wide = logits[:, left] * at_left + logits[:, right] * at_right
    large: NDArray[np.float32] = wide[upper] * at_upper[:, None] + wide[lower] * at_lower[:, None]
    return large
