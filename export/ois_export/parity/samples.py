"""Real pictures to prove engines on: four photographs, cropped to four shapes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def photo_folder() -> Path:
    """The folder of the sample photographs (their licences lie beside them)."""
    return Path(str(resources.files("ois_export") / "photos"))


@dataclass(frozen=True, slots=True)
class Sample:
    """A crop of a photograph: `box` is (left, top, right, bottom) in its pixels."""

    name: str
    photo: str
    box: tuple[int, int, int, int]

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        with Image.open(photo_folder() / self.photo) as image:
            return np.asarray(image.convert("RGB").crop(self.box))


LANDSCAPE = Sample("landscape", "coffee.jpg", (0, 0, 600, 400))
PORTRAIT = Sample("portrait", "chelsea.jpg", (100, 0, 325, 300))
SQUARE = Sample("square", "astronaut.jpg", (0, 0, 512, 512))
PANORAMA = Sample("panorama", "rocket.jpg", (0, 200, 640, 360))
