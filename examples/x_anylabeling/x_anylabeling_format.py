"""Converts X-AnyLabeling's requests to clicks, and masks to its shapes. No I/O.

The format is that of the remote models of X-AnyLabeling 4.2: `POST /v1/predict` with an image and
marks, answered with shapes.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client import Click, InvalidClick, InvalidImage, InvalidInput
from ois_client.formats.polygons import rings_of_mask, simplify

#: X-AnyLabeling keeps shapes with this label as a suggestion until the object is finished.
SUGGESTION = "AUTOLABEL_OBJECT"
#: The largest distance of a polygon from the mask's outline, as a share of the outline's length,
#: if the request does not say. X-AnyLabeling's slider "mask fineness" at 10.
FINENESS = 0.001


def read_model(request: Mapping[str, Any], model: str) -> None:
    """Raises `InvalidInput` if the request is for another model."""
    if request.get("model") != model:
        raise InvalidInput(f"got the model {request.get('model')!r}; expected {model!r}")


def read_marks(request: Mapping[str, Any]) -> tuple[Click, ...]:
    """The clicks of a request, oldest first; none without a positive one.

    X-AnyLabeling sends whole pixels, whose centres are at integers as in `Click`. Raises
    `InvalidInput` for marks that are not points, `InvalidClick` for points that are not numbers.
    """
    marks = _params(request).get("marks") or []
    if not isinstance(marks, list):
        raise InvalidInput(f"got marks of type {type(marks).__name__}; expected a list")
    clicks = []
    for mark in marks:
        if not isinstance(mark, Mapping) or mark.get("type") != "point":
            kind = mark.get("type") if isinstance(mark, Mapping) else mark
            raise InvalidInput(
                f"got the mark {str(kind)[:40]!r}; expected points, +Point or -Point"
            )
        at: Any = mark.get("data")
        label = mark.get("label")
        numbers = isinstance(at, list) and len(at) == 2 and all(map(_is_number, at))
        if not numbers or label not in (0, 1):
            raise InvalidClick(
                f"got the point {str(at)[:60]} with the label {str(label)[:20]}; expected [x, y] "
                "in pixels of the image, and 1 or 0"
            )
        clicks.append(Click(float(at[0]), float(at[1]), label == 1))
    return tuple(clicks) if any(click.positive for click in clicks) else ()


def read_fineness(request: Mapping[str, Any]) -> float:
    """How closely polygons follow the mask, as a share of the outline's length."""
    value = _params(request).get("epsilon_factor", FINENESS)
    if not _is_number(value) or not 0 <= value <= 1:
        raise InvalidInput(f"got the epsilon_factor {str(value)[:40]}; expected 0 to 1")
    return float(value)


def image_text(request: Mapping[str, Any]) -> str:
    """The image as sent: base64, with or without `data:image/...;base64,` before it."""
    image = request.get("image")
    if not isinstance(image, str) or not image:
        raise InvalidImage(f"got an image of type {type(image).__name__}; expected base64 text")
    return image


def image_bytes(text: str) -> bytes:
    """Decodes `image_text`. Raises `InvalidImage` if it is not base64."""
    try:
        return base64.b64decode(text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"got an image that is not base64: {error}") from error


def shapes_of_mask(mask: NDArray[np.uint8], fineness: float = FINENESS) -> list[dict[str, Any]]:
    """(H, W) uint8, 1 = object -> one polygon for each part, without its holes.

    A polygon's points are (x, y) in pixels of the image, along pixel edges, and end where they
    begin, which closes the shape in X-AnyLabeling.
    """
    shapes = []
    for ring in rings_of_mask(mask):
        if ring.hole:
            continue
        length = float(np.abs(np.diff(ring.points, axis=0, append=ring.points[:1])).sum())
        fewer = simplify(ring.points, fineness * length)
        points = (fewer if len(fewer) > 2 else ring.points).tolist()
        shapes.append(
            {"label": SUGGESTION, "shape_type": "polygon", "points": [*points, points[0]]}
        )
    return shapes


def _params(request: Mapping[str, Any]) -> Mapping[str, Any]:
    params = request.get("params", {})
    if not isinstance(params, Mapping):
        raise InvalidInput(f"got params of type {type(params).__name__}; expected an object")
    return params


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False
