"""GrabCut from the same clicks: the floor for every network, because it has learned nothing.

Rother, Kolmogorov and Blake, 2004, as OpenCV implements it, on the image reduced to a longest side
of at most `LONGEST` pixels: at the own size of a photograph a click takes half a minute. A disk
around each click is certain; a larger circle around each positive click is probably object, and
everything else probably background. Every click starts from these seeds again.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.Image import Resampling

from ois_benchmarks.contestants.base import Image, Mask, NotHere, Place
from ois_benchmarks.latency.result import Cost, Identity
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput

#: Longest side of what is cut, in pixels.
LONGEST = 400
#: Radius of what a click makes certain, in pixels of the reduced image, as RITM and SimpleClick
#: draw their clicks.
CERTAIN = 5
#: Radius of what is probably object, as a share of the image's shorter side.
PROBABLE = 0.15
ITERATIONS = 5
#: OpenCV's values for pixels of a mask.
BACKGROUND, OBJECT, MAYBE_BACKGROUND, MAYBE_OBJECT = range(4)

VARIANTS: dict[str, None] = {"grabcut": None}


def open_grabcut(place: Place, _variant: None = None) -> GrabCut:
    """Open GrabCut. Raises `NotHere` without OpenCV, `InvalidInput` for weights."""
    if place.weights is not None:
        raise InvalidInput(f"got the weights {place.weights} for GrabCut, which has none")
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise NotHere(
            f"OpenCV cannot be imported ({error}): pip install --no-deps 'opencv-python-headless<5'"
        ) from error
    cv2.setNumThreads(place.threads)
    return GrabCut(cv2)


class GrabCut:
    """OpenCV's `grabCut` as a contestant. It computes nothing from the image before a click."""

    encodes = False
    served = False

    def __init__(self, cv2: Any) -> None:
        self._cv2 = cv2
        self._image: Image = np.zeros((1, 1, 3), np.uint8)
        self._size = (1, 1)  # of the whole image: width, height
        self.identity = Identity(
            label="GrabCut",
            family="grabcut",
            engine=f"opencv {cv2.__version__} on cpu",
            precision="fp32",
            source=f"PyPI opencv-python-headless {cv2.__version__}",
            weights="none",
            sha256="",
            input_size=(0, 0),  # depends on the image
        )

    def set_image(self, image: Image) -> None:
        whole = PIL.Image.fromarray(image)
        self._size = whole.size
        scale = min(1.0, LONGEST / max(whole.size))
        width, height = (max(1, round(scale * side)) for side in whole.size)
        self._image = np.ascontiguousarray(whole.resize((width, height), Resampling.BOX))

    def click(self, clicks: Sequence[Click]) -> Mask:
        (height, width), (own_width, own_height) = self._image.shape[:2], self._size
        scale_x, scale_y = width / own_width, height / own_height
        reduced = [
            Click((click.x + 0.5) * scale_x - 0.5, (click.y + 0.5) * scale_y - 0.5, click.positive)
            for click in clicks
        ]
        found = PIL.Image.fromarray(self._cut(reduced).astype(np.uint8) * 255)
        return np.asarray(found.resize(self._size, Resampling.BILINEAR)) > 127

    def _cut(self, clicks: Sequence[Click]) -> Mask:
        """The mask (h, w) bool of the reduced image, for clicks in its pixels."""
        mask = seeds(clicks, *self._image.shape[:2])
        is_object = (mask == OBJECT) | (mask == MAYBE_OBJECT)
        if is_object.all() or not is_object.any():
            return is_object  # OpenCV raises if it has no sample of one side
        self._cv2.setRNGSeed(0)  # its first clusters are drawn at random
        models = np.zeros((2, 1, 65))
        self._cv2.grabCut(
            self._image, mask, None, models[0], models[1], ITERATIONS, self._cv2.GC_INIT_WITH_MASK
        )
        return (mask == OBJECT) | (mask == MAYBE_OBJECT)

    def cost(self) -> Cost | None:
        """None: it has no parameters, and its work depends on the image."""
        return None

    def close(self) -> None:
        self._image = np.zeros((1, 1, 3), np.uint8)


def seeds(clicks: Sequence[Click], height: int, width: int) -> NDArray[np.uint8]:
    """What GrabCut starts from: (height, width), one of OpenCV's four values per pixel.

    Where disks overlap, the later click counts.
    """
    mask = np.full((height, width), MAYBE_BACKGROUND, np.uint8)
    rows, columns = np.ogrid[:height, :width]
    away = [(columns - click.x) ** 2 + (rows - click.y) ** 2 for click in clicks]
    for click, squared in zip(clicks, away, strict=True):
        if click.positive:
            mask[squared <= (PROBABLE * min(height, width)) ** 2] = MAYBE_OBJECT
    for click, squared in zip(clicks, away, strict=True):
        mask[squared <= CERTAIN**2] = OBJECT if click.positive else BACKGROUND
    return mask
