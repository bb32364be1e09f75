"""Outlines of procedural objects: solid, with holes, and thinner than a patch.

A shape is a list of (polygon, value) that is painted in order: 1 adds the polygon, 0 cuts it out.
Polygons are (n, 2) float (x, y) around (0, 0), in units of the object's radius, y down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]
Shape = list[tuple[Polygon, int]]


def ellipse(rx: float = 1.0, ry: float = 1.0, cx: float = 0.0, cy: float = 0.0) -> Polygon:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack((cx + rx * np.cos(angle), cy + ry * np.sin(angle)), axis=1)


def rectangle(rx: float, ry: float, cx: float = 0.0, cy: float = 0.0) -> Polygon:
    corners = np.array([[-rx, -ry], [rx, -ry], [rx, ry], [-rx, ry]], dtype=np.float64)
    return corners + np.array([cx, cy])


def _ellipse(rng: np.random.Generator) -> Shape:
    return [(ellipse(1.0, rng.uniform(0.45, 1.0)), 1)]


def _box(rng: np.random.Generator) -> Shape:
    return [(rectangle(rng.uniform(0.7, 1.0), rng.uniform(0.35, 1.0)), 1)]


def _polygon(rng: np.random.Generator) -> Shape:
    corners = int(rng.integers(3, 8))
    angle = np.sort(rng.uniform(0, 2 * np.pi / corners, corners)) * 0.5
    angle = angle + np.arange(corners) * 2 * np.pi / corners
    radius = rng.uniform(0.75, 1.0, corners)
    return [(np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1), 1)]


def _star(rng: np.random.Generator) -> Shape:
    points = int(rng.integers(4, 8))
    angle = np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2, rng.uniform(0.4, 0.7), 1.0)
    return [(np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1), 1)]


def _blob(rng: np.random.Generator) -> Shape:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = np.ones_like(angle)
    for order in range(2, 6):
        radius += rng.normal(0, 0.28 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.3, None) / max(radius.max(), 1.0)
    return [(np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1), 1)]


def _ring(rng: np.random.Generator) -> Shape:
    inner, ry = rng.uniform(0.4, 0.72), rng.uniform(0.7, 1.0)
    return [(ellipse(1.0, ry), 1), (ellipse(inner, inner * ry), 0)]


def _holed(rng: np.random.Generator) -> Shape:
    shape = (_blob, _box, _ellipse)[int(rng.integers(3))](rng)
    for _ in range(int(rng.integers(2, 4))):
        radius = rng.uniform(0.14, 0.26)
        x, y = rng.uniform(-0.5, 0.5, 2)
        shape.append((ellipse(radius, radius, x, y), 0))
    return shape


def _cross(rng: np.random.Generator) -> Shape:
    arm = rng.uniform(0.2, 0.4)
    return [(rectangle(1.0, arm), 1), (rectangle(arm, 1.0), 1)]


def _mug(rng: np.random.Generator) -> Shape:
    thickness = rng.uniform(0.12, 0.2)
    return [
        (ellipse(0.42, 0.5, 0.55, 0.0), 1),
        (ellipse(0.42 - thickness, 0.5 - thickness, 0.55, 0.0), 0),
        (rectangle(0.55, 0.85, -0.25, 0.0), 1),
    ]


def _bar(rng: np.random.Generator) -> Shape:
    return [(rectangle(1.6, rng.uniform(0.07, 0.16)), 1)]


def _fence(rng: np.random.Generator) -> Shape:
    bars = int(rng.integers(3, 7))
    width = rng.uniform(0.07, 0.12)
    height = rng.uniform(0.5, 0.8)
    shape = [(rectangle(width, height, x, 0.0), 1) for x in np.linspace(-1.1, 1.1, bars)]
    for y in (-0.6 * height, 0.6 * height):
        shape.append((rectangle(1.1 + width, width * 0.9, 0.0, y), 1))
    return shape


def _fork(rng: np.random.Generator) -> Shape:
    width = rng.uniform(0.07, 0.12)
    prongs = [(rectangle(width, 0.45, x, -0.5), 1) for x in np.linspace(-0.45, 0.45, 3)]
    return [*prongs, (rectangle(0.45 + width, width, 0.0, -0.05), 1),
            (rectangle(width, 0.55, 0.0, 0.45), 1)]  # fmt: skip


#: name -> (generator, relative frequency, whether it is thin)
SHAPES: dict[str, tuple[Callable[[np.random.Generator], Shape], float, bool]] = {
    "blob": (_blob, 5.0, False),
    "ellipse": (_ellipse, 2.5, False),
    "box": (_box, 3.0, False),
    "polygon": (_polygon, 2.0, False),
    "star": (_star, 1.0, False),
    "ring": (_ring, 1.5, False),
    "holed": (_holed, 1.5, False),
    "cross": (_cross, 1.0, False),
    "mug": (_mug, 1.0, False),
    "bar": (_bar, 1.2, True),
    "fence": (_fence, 0.8, True),
    "fork": (_fork, 0.5, True),
}


def draw_shape(rng: np.random.Generator, name: str = "") -> tuple[str, Shape, bool]:
    """A random shape, or one of the kind `name`: its kind, its polygons, and whether it is thin."""
    if not name:
        names = list(SHAPES)
        weights = np.array([SHAPES[kind][1] for kind in names])
        name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    generator, _, thin = SHAPES[name]
    return name, generator(rng), thin
