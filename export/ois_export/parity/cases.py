"""Real pictures with clicks on them: what engines are compared on.

Needs no torch: the serving image compares the engines that it builds as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click, fill_slots
from ois_client.contract.geometry import Geometry
from ois_export.parity.samples import LANDSCAPE, PANORAMA, PORTRAIT, SQUARE, Sample


@dataclass(frozen=True, slots=True)
class Case:
    """One request: per object (positive clicks, negative clicks, has a previous mask)."""

    sample: Sample
    objects: tuple[tuple[int, int, bool], ...]

    @property
    def clicks(self) -> int:
        return max(positive + negative for positive, negative, _ in self.objects)


#: Four shapes; N = 1, 4, 16; 1 to 48 clicks; with and without a previous mask. The widest
#: request runs on the panorama so that ViT-B at 1022 stays within a laptop's memory.
CASES: tuple[Case, ...] = (
    Case(LANDSCAPE, ((1, 0, False),)),
    Case(LANDSCAPE, ((2, 1, True),)),
    Case(PORTRAIT, ((1, 0, False), (1, 2, True), (3, 0, True), (5, 4, False))),
    Case(SQUARE, ((24, 24, True),)),
    Case(
        PANORAMA,
        tuple((1 + 23 * n // 15, 24 * n // 15, n % 3 != 0) for n in range(16)),
    ),
)


Prompts = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.uint8], NDArray[np.bool_]]


def make_prompts(case: Case, geometry: Geometry, seed: int) -> Prompts:
    """Random clicks, and for objects with a previous mask a disk-shaped coverage."""
    generator = np.random.default_rng(seed)
    size = np.array([geometry.width - 1, geometry.height - 1])
    objects = []
    for positive, negative, _ in case.objects:
        places = generator.random((positive + negative, 2)) * size
        objects.append([Click(float(x), float(y), n < positive) for n, (x, y) in enumerate(places)])
    points, labels = fill_slots(objects, geometry)
    y, x = np.mgrid[: geometry.grid_height, : geometry.grid_width]
    coverage = np.zeros((len(objects), *x.shape), dtype=np.uint8)
    for row, clicks in enumerate(objects):
        column, line = geometry.to_grid(np.array([clicks[0].x, clicks[0].y]))
        distance = np.hypot(x - column, y - line)
        reach = max(x.shape) / 4
        coverage[row] = np.clip((reach - distance) * 64, 0, 255).astype(np.uint8)
    has_previous = np.array([previous for _, _, previous in case.objects])
    coverage[~has_previous] = 0
    return points, labels, coverage, has_previous


def one_object(prompts: Prompts, row: int) -> Prompts:
    """The prompts of object `row` alone, N = 1."""
    points, labels, coverage, has_previous = prompts
    part = slice(row, row + 1)
    return points[part], labels[part], coverage[part], has_previous[part]
