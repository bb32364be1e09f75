"""What notebooks show of sessions: the image with masks and clicks, as a PNG.

Only for display: at most `LONGEST` pixels on the longest side.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ois_client.contract.clicks import Click
from ois_client.contract.images import Picture
from ois_client.formats.colours import OBJECT_COLOURS

LONGEST = 800
_COLOURS = OBJECT_COLOURS[:5]
_POSITIVE, _NEGATIVE, _EDGE = (46, 204, 64), (255, 65, 54), (255, 255, 255)
_OPACITY = 0.45
_RADIUS = 5


def draw(
    picture: Picture,
    masks: Mapping[int, NDArray[np.uint8]],
    clicks: Mapping[int, Sequence[Click]],
) -> bytes:
    """The PNG. masks: object -> (H, W) uint8, 1 = object. clicks: object -> its clicks.

    Raises `InvalidImage` if the picture cannot be decoded.
    """
    shrink = min(1.0, LONGEST / max(picture.width, picture.height))
    size = max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))
    canvas = Image.fromarray(picture.pixels()).resize(size, Image.Resampling.BILINEAR)
    for place, mask in enumerate(masks.values()):
        share = Image.fromarray(mask * np.uint8(255 * _OPACITY)).resize(
            size, Image.Resampling.BILINEAR
        )
        canvas.paste(Image.new("RGB", size, _COLOURS[place % len(_COLOURS)]), mask=share)
    pen = ImageDraw.Draw(canvas)
    for click in (click for of_object in clicks.values() for click in of_object):
        x, y = (click.x + 0.5) * size[0] / picture.width, (click.y + 0.5) * size[1] / picture.height
        box = (x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS)
        pen.ellipse(box, fill=_POSITIVE if click.positive else _NEGATIVE, outline=_EDGE, width=2)
    file = io.BytesIO()
    canvas.save(file, format="PNG")
    return file.getvalue()
