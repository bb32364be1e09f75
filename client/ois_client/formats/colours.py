"""Colours of objects in pictures for people."""

from __future__ import annotations

#: RGB of the first, second, ... object, which colour-blind people can tell apart (Okabe and Ito).
#: They repeat.
OBJECT_COLOURS = (
    (0, 158, 255),
    (230, 159, 0),
    (204, 121, 167),
    (240, 228, 66),
    (0, 158, 115),
    (213, 94, 0),
    (86, 180, 233),
)
