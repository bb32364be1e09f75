"""Colours: a perceptually uniform map for values, and fixed colours for objects and clicks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ois_client.formats import colours

GREEN = (46, 204, 64)
RED = (255, 65, 54)
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)

# 17 evenly spaced colours of viridis. Interpolated linearly, they differ from the original by at
# most 6 of 255. Lightness rises evenly, so equal differences of values look equal.
_VIRIDIS = (
    "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c "
    "1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725"
)

_OBJECTS = np.array(colours.OBJECT_COLOURS, dtype=np.uint8)
OBJECT_COLOURS = len(_OBJECTS)


def _table() -> NDArray[np.uint8]:
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _VIRIDIS.split()], dtype=float)
    places = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(places, np.arange(len(anchors)), anchors[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


VIRIDIS = _table()


def colour_map(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour an array of values: 0 is dark violet, 1 is bright yellow.

    values: (H, W) float; clipped to [0, 1], NaN counts as 0. Returns (H, W, 3) uint8 RGB.
    """
    known = np.where(np.isnan(values), 0, values)
    indices = np.rint(np.clip(known, 0, 1) * 255).astype(np.uint8)
    return VIRIDIS[indices]


def object_colour(number: int) -> tuple[int, int, int]:
    """Return the RGB colour of object `number` (1, 2, ...); colours repeat after seven."""
    red, green, blue = _OBJECTS[(number - 1) % len(_OBJECTS)]
    return int(red), int(green), int(blue)
