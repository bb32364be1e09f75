"""Colours: a perceptually uniform map for numbers, and fixed colours for objects and clicks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GREEN = (46, 204, 64)
RED = (255, 65, 54)
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)

# 17 evenly spaced colours of viridis; linear between them it differs from the original by at
# most 6 of 255. Lightness rises evenly, so equal steps in the number look equal.
_VIRIDIS = (
    "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c "
    "1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725"
)

#: Colour of object 1, 2, ...; told apart by people who see red and green alike (Okabe-Ito).
_OBJECTS = np.array(
    [
        (0, 158, 255),
        (230, 159, 0),
        (204, 121, 167),
        (240, 228, 66),
        (0, 158, 115),
        (213, 94, 0),
        (86, 180, 233),
    ],
    dtype=np.uint8,
)
OBJECT_COLOURS = len(_OBJECTS)


def _table() -> NDArray[np.uint8]:
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _VIRIDIS.split()], dtype=float)
    places = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(places, np.arange(len(anchors)), anchors[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


VIRIDIS = _table()


def colour_map(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """values: (H, W) in [0, 1], clipped -> (H, W, 3) uint8; 0 dark violet, 1 bright yellow.

    What is not a number is shown as 0.
    """
    known = np.where(np.isnan(values), 0, values)
    indices = np.rint(np.clip(known, 0, 1) * 255).astype(np.uint8)
    return VIRIDIS[indices]


def object_colour(number: int) -> tuple[int, int, int]:
    """The colour of object `number` (1, 2, ...); the list repeats after seven."""
    red, green, blue = _OBJECTS[(number - 1) % len(_OBJECTS)]
    return int(red), int(green), int(blue)
