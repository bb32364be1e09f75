"""The work of every contestant: the picture, the object, the clicks and the repetitions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ois_benchmarks.contestants.base import Contestant, Image, Mask
from ois_client.contract.clicks import Click

#: Clicks on one object before the next begins, as in the peers' own demonstrations.
CLICKS_PER_OBJECT = 11
GRID = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What to do on one picture of width x height pixels.

    encodes, clicks: undisturbed repetitions to collect. loop_clicks: robot clicks of `loop`.
    patience: if other programs disturb, try at most this many times as many repetitions.
    full_below_s: SAT makes all clicks if that takes at most this long; otherwise it is projected
    from `sat_clicks` clicks. batch: objects per call in SAT's batched mode.
    """

    width: int
    height: int
    encodes: int = 5
    clicks: int = 22
    loop_clicks: int = 20
    patience: int = 4
    full_below_s: float = 120.0
    sat_clicks: int = 16
    batch: int = 4


def photograph(width: int, height: int) -> Image:
    """A shipped photograph, cropped and scaled to this size: (height, width, 3) uint8 RGB."""
    from ois_export.parity.cases import SQUARE

    whole = Pillow.fromarray(SQUARE.pixels())
    scale = min(whole.width / width, whole.height / height)
    box = (0, 0, max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(whole.crop(box).resize((width, height), Pillow.Resampling.BICUBIC))


def jpeg(image: Image) -> bytes:
    """The picture as a JPEG file, for loops that include decoding."""
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def ellipse(width: int, height: int) -> NDArray[np.uint8]:
    """The object that the robot user segments: (height, width) uint8, 1 in an ellipse.

    It is centred and covers about a fifth of the picture.
    """
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2) / (width / 4)) ** 2 + ((y - height / 2) / (height / 4)) ** 2 < 1
    return inside.astype(np.uint8)


def script(width: int, height: int) -> list[Click]:
    """The fixed clicks on one object: all over the picture, every third one negative."""
    places = np.random.default_rng(0).uniform(0.1, 0.9, (CLICKS_PER_OBJECT, 2))
    return [
        Click(float(int(x * width)), float(int(y * height)), n % 3 != 2)
        for n, (x, y) in enumerate(places)
    ]


def grid(width: int, height: int, points_per_side: int = GRID) -> list[Click]:
    """One positive click in the centre of every grid cell, row by row."""
    centres = (np.arange(points_per_side) + 0.5) / points_per_side
    return [Click(float(int(x * width)), float(int(y * height))) for y in centres for x in centres]


class Player:
    """Makes the given clicks one at a time, and starts over after the last."""

    def __init__(self, contestant: Contestant, clicks: Sequence[Click], *, together: bool) -> None:
        """together: all clicks are on one object, so each call includes the clicks before it.
        Otherwise each click is on its own object.
        """
        self._contestant = contestant
        self._clicks = list(clicks)
        self._together = together
        self._made = 0

    def click(self) -> Mask:
        place = self._made % len(self._clicks)
        self._made += 1
        first = 0 if self._together else place
        return self._contestant.click(self._clicks[first : place + 1])
