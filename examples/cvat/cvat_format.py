"""Converts CVAT's interactor requests to clicks, and masks to CVAT's replies. No I/O.

The formats are those of the handlers in `serverless/` of CVAT's repository, and of the type
`InteractorResults` of its page: `{mask: number[][], points?: [x, y][]}`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client import Click, InvalidClick, InvalidImage, InvalidInput
from ois_client.sessions.replay import in_order

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Points:
    """Points (x, y) on CVAT's canvas, where pixel i covers i to i + 1."""

    positive: tuple[Point, ...]
    negative: tuple[Point, ...]


def read_request(body: object) -> tuple[bytes, Points]:
    """Return the encoded image and the points of a request.

    body: JSON, or parsed JSON. Raises `InvalidInput`, `InvalidImage` or `InvalidClick` if
    something is missing or has the wrong format, and if the request contains a box.
    """
    if isinstance(body, bytes | str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"got a request that is not JSON: {error}") from error
    if not isinstance(body, Mapping):
        raise InvalidInput(f"got a request of type {type(body).__name__}; expected a JSON object")
    if body.get("obj_bbox"):
        raise InvalidInput("got a box; expected only clicks. Switch startswith_box off")
    image = body.get("image")
    if not isinstance(image, str):
        raise InvalidImage("got a request without an image; expected it in base64 under `image`")
    try:
        data = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"got an image that is not base64: {error}") from error
    return data, Points(_read(body, "pos_points"), _read(body, "neg_points"))


def clicks_in_order(
    points: Points, before: Sequence[Click], width: int, height: int
) -> list[Click]:
    """Return all points as clicks of a `width` x `height` image, in the order of clicking.

    before: see `ois_client.sessions.replay.in_order`. Raises `InvalidClick` if a point is outside
    the image.
    """
    positive = [Click.on_canvas(x, y, True, width=width, height=height) for x, y in points.positive]
    negative = [
        Click.on_canvas(x, y, False, width=width, height=height) for x, y in points.negative
    ]
    return in_order(positive, negative, before)


def reply_of_mask(mask: NDArray[np.uint8]) -> dict[str, Any]:
    """Return CVAT's reply: the mask of the whole image that was sent.

    mask: (H, W), 1 = object. There are no `bounds`: CVAT's newer pages ignore them and would draw
    a mask of the object's box at the image's corner. When the annotator has chosen a region of
    interest, the image is that region, and CVAT's server moves a mask of its size to its place.
    CVAT's page traces the outline itself. Only the reply of an empty mask has `points`, so that
    the page does not look for an outline.
    """
    reply: dict[str, Any] = {"mask": mask.tolist()}
    return reply if mask.any() else {**reply, "points": []}


def _read(body: Mapping[str, Any], name: str) -> tuple[Point, ...]:
    points = body.get(name)
    if points is None and name == "neg_points":
        return ()
    if not isinstance(points, list) or not all(
        isinstance(point, list | tuple)
        and len(point) == 2
        and all(isinstance(at, int | float) and not isinstance(at, bool) for at in point)
        for point in points
    ):
        raise InvalidClick(f"got {name} {str(points)[:80]}; expected a list of [x, y]")
    return tuple((x, y) for x, y in points)
