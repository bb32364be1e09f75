"""The test cases that engines are compared on: crops of four photographs, with clicks.

Needs no torch, because the serving image compares the engines that it builds as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.clicks import Click, Prompts, fill_slots
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.pair import HostPrompts


def photo_folder() -> Path:
    """Return the folder of the sample photographs (LICENSES.md in it states their licences)."""
    return Path(str(resources.files("ois_export") / "photos"))


@dataclass(frozen=True, slots=True)
class Sample:
    """A crop of a photograph. box: (left, top, right, bottom) in pixels of the photograph."""

    name: str
    photo: str
    box: tuple[int, int, int, int]

    def pixels(self) -> NDArray[np.uint8]:
        """Return the crop, (H, W, 3) uint8 RGB."""
        with Image.open(photo_folder() / self.photo) as image:
            return np.asarray(image.convert("RGB").crop(self.box))


LANDSCAPE = Sample("landscape", "coffee.jpg", (0, 0, 600, 400))
PORTRAIT = Sample("portrait", "chelsea.jpg", (100, 0, 325, 300))
SQUARE = Sample("square", "astronaut.jpg", (0, 0, 512, 512))
PANORAMA = Sample("panorama", "rocket.jpg", (0, 200, 640, 360))


@dataclass(frozen=True, slots=True)
class Case:
    """One request. objects: per object (positive clicks, negative clicks, has a previous mask)."""

    sample: Sample
    objects: tuple[tuple[int, int, bool], ...]

    @property
    def clicks(self) -> int:
        """The largest number of clicks on one object."""
        return max(positive + negative for positive, negative, _ in self.objects)


#: Four shapes; N = 1, 4, 16; 1 to 48 clicks; with and without a previous mask. The case with 16
#: objects uses the panorama, so that ViT-B at 1022 pixels fits into a laptop's memory.
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


def make_prompts(case: Case, geometry: Geometry, seed: int) -> HostPrompts:
    """Make random clicks and, for objects with a previous mask, a disk as coverage."""
    generator = np.random.default_rng(seed)
    size = np.array([geometry.width - 1, geometry.height - 1])
    objects = []
    for positive, negative, _ in case.objects:
        places = generator.random((positive + negative, 2)) * size
        objects.append([Click(float(x), float(y), n < positive) for n, (x, y) in enumerate(places)])
    points, labels = fill_slots(objects, geometry)
    scale = geometry.coverage_scale
    rows, columns = geometry.coverage_shape
    y, x = np.mgrid[:rows, :columns]
    coverage = np.zeros((len(objects), *x.shape), dtype=np.uint8)
    for row, clicks in enumerate(objects):
        column, line = geometry.to_grid(np.array([clicks[0].x, clicks[0].y]))
        distance = np.hypot(x - scale * column, y - scale * line)
        reach = max(x.shape) / 4
        coverage[row] = np.clip((reach - distance) * 64, 0, 255).astype(np.uint8)
    has_previous = np.array([previous for _, _, previous in case.objects])
    coverage[~has_previous] = 0
    return Prompts(points, labels, coverage, has_previous)


def one_object(prompts: HostPrompts, row: int) -> HostPrompts:
    """Return the prompts of object `row` alone (N = 1)."""
    return prompts.map(lambda array: array[row : row + 1])
