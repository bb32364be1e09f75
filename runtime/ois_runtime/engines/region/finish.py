"""What follows the last convolution of a click, on logits in host memory.

The same arithmetic as `ois_network.keep_clicks` and `ois_network.order.coverage_of_logits`, only
where there is something to do: a click changes a few pixels, and patches outside the region are
known to be empty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import EMPTY, POSITIVE

#: As in `ois_network.keep_clicks`.
DEVIATION, MARGIN, GAIN = 2.0, 0.5, 1.1
#: Beyond this distance from a click, in network pixels, a correction is below a millionth.
REACH = 16


def keep_clicks(
    logits: NDArray[np.float32], points: NDArray[np.float32], labels: NDArray[np.int32]
) -> None:
    """Change logits (h, w) so that clicked pixels are right.

    points: (48, 2), (x, y) in network pixels; labels: (48). All corrections come from the logits as
    they were given.
    """
    height, width = logits.shape
    corrections = []
    for (x, y), label in zip(points, labels, strict=True):
        if label == EMPTY:
            continue
        sign = 1.0 if label == POSITIVE else -1.0
        missing = MARGIN - sign * _at(logits, float(x), float(y))
        if missing > 0:
            corrections.append((float(x), float(y), GAIN * sign * missing))
    for x, y, amplitude in corrections:
        left, right = _around(x, width)
        top, bottom = _around(y, height)
        along_x = np.exp((np.arange(left, right) - x) ** 2 * (-0.5 / DEVIATION**2))
        along_y = np.exp((np.arange(top, bottom) - y) ** 2 * (-0.5 / DEVIATION**2))
        added = amplitude * along_y[:, None] * along_x
        logits[top:bottom, left:right] += added.astype(np.float32)


def coverage_of(logits: NDArray[np.float32], cell: int) -> NDArray[np.uint8]:
    """The coverage (h / cell, w / cell) of the mask logits (h, w) > 0.

    Only a cell without foreground gets 0, and only a cell without background gets 255.
    """
    height, width = logits.shape
    cells = (logits > 0).reshape(height // cell, cell, width // cell, cell)
    count = cells.sum(axis=3, dtype=np.int32).sum(axis=1)
    inner = np.clip(np.round(count * np.float32(255 / cell**2)), 1, 254)
    whole = np.where(count == cell**2, 255, np.where(count == 0, 0, inner))
    return whole.astype(np.uint8)


def _around(place: float, size: int) -> tuple[int, int]:
    return max(int(place) - REACH, 0), min(int(place) + REACH + 1, size)


def _at(image: NDArray[np.float32], x: float, y: float) -> float:
    """The bilinear value at a point, as `ois_network.order.sample_bilinear`."""
    height, width = image.shape
    x, y = min(max(x, 0.0), width - 1), min(max(y, 0.0), height - 1)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    fx, fy = x - left, y - top
    above = image[top, left] * (1 - fx) + image[top, right] * fx
    below = image[bottom, left] * (1 - fx) + image[bottom, right] * fx
    return float(above * (1 - fy) + below * fy)
