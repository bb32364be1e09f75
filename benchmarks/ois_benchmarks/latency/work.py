"""What every contestant is asked to do: the picture, the clicks, the object, how often."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ois_benchmarks.contestants.base import Contestant, Image, Mask
from ois_client.contract.clicks import Click

#: Clicks on one object before the next begins, as in peers' own demonstrations.
CLICKS_AN_OBJECT = 11
GRID = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """encodes, clicks: quiet repetitions that count. loop_clicks: robot clicks of `loop`.

    patience: how many times as many repetitions are tried on a machine that is not quiet.
    full_below_s: SAT is run whole when it would take at most this long, else projected from
    `sat_clicks` clicks. batch: objects in one call of SAT's batched mode.
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
    """A shipped photograph, cropped to the shape and scaled: (height, width, 3) uint8 RGB."""
    from ois_export.parity.cases import SQUARE

    whole = Pillow.fromarray(SQUARE.pixels())
    scale = min(whole.width / width, whole.height / height)
    box = (0, 0, max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(whole.crop(box).resize((width, height), Pillow.Resampling.BICUBIC))


def jpeg(image: Image) -> bytes:
    """The picture as a file, for what begins with decoding one."""
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def ellipse(width: int, height: int) -> NDArray[np.uint8]:
    """(height, width), 1 = the object that the robot user wants: in the middle, a fifth of it."""
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2) / (width / 4)) ** 2 + ((y - height / 2) / (height / 4)) ** 2 < 1
    return inside.astype(np.uint8)


def script(width: int, height: int) -> list[Click]:
    """The clicks on one object: fixed, all over the picture, every third one negative."""
    places = np.random.default_rng(0).uniform(0.1, 0.9, (CLICKS_AN_OBJECT, 2))
    return [
        Click(float(int(x * width)), float(int(y * height)), n % 3 != 2)
        for n, (x, y) in enumerate(places)
    ]


def grid(width: int, height: int, points_per_side: int = GRID) -> list[Click]:
    """One positive click in the middle of every cell, row by row."""
    centres = (np.arange(points_per_side) + 0.5) / points_per_side
    return [Click(float(int(x * width)), float(int(y * height))) for y in centres for x in centres]


class Player:
    """Clicks one after the other, each with all before it on the same object, round and round."""

    def __init__(self, contestant: Contestant, clicks: Sequence[Click], *, together: bool) -> None:
        """together: the clicks are on one object; else each is on an object of its own."""
        self._contestant = contestant
        self._clicks = list(clicks)
        self._together = together
        self._made = 0

    def click(self) -> Mask:
        place = self._made % len(self._clicks)
        self._made += 1
        first = 0 if self._together else place
        return self._contestant.click(self._clicks[first : place + 1])
