"""Scores and enlargement of a mask's logits. Logits above 0 are object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, h, w) logits -> (N), 0..1: the mean probability of the pixels of each mask.

    0 for an empty mask. This measures the network's confidence in the pixels that it marked; it is
    not an estimate of the IoU, which this network does not make.
    """
    scores = np.zeros(len(logits), dtype=np.float32)
    for row, one in enumerate(logits):
        inside = one[one > 0].astype(np.float64)
        if inside.size:
            scores[row] = (1 / (1 + np.exp(-inside))).mean()
    return scores


def stability(logits: NDArray[np.float32], offset: float) -> NDArray[np.float32]:
    """(N, h, w) logits -> (N), 0..1: the IoU of the masks thresholded at +offset and -offset.

    0 for an empty mask. The definition is that of SAM's automatic mask generator, here at the
    network's size.
    """
    inner = (logits > offset).sum(axis=(1, 2))
    outer = (logits > -offset).sum(axis=(1, 2))
    return (inner / np.maximum(outer, 1)).astype(np.float32)


def enlarge(logits: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """(h, w) -> (height, width), bilinear with half-pixel centres, as masks are computed."""

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
