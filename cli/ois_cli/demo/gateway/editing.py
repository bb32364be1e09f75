"""Edits of a mask: the page sends a stroke of its brush and the mask, and gets the new mask.

As with clicks, the gateway stores nothing. The brush works at the image's own size, so an edited
mask is as exact as one from the network, and its coverage goes with the next click: the network
then refines what was painted.

    request, head   width, height   of the image
                    points          [[x, y], ...] in pixels of the image, of one stroke; without
                                    points, only the coverage is computed
                    radius          of the brush, in pixels of the image
                    paint           true adds pixels, false removes them
             parts  mask            the mask as PNG; absent for an empty one
    response        as that of a click with the wanted "mask", without times and maps
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_cli.demo.gateway.clicks import image_size
from ois_cli.demo.gateway.frames import read_frame
from ois_cli.demo.gateway.masks import mask_head, mask_parts, read_mask
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import InvalidInput
from ois_client.contract.transport import ModelInfo

#: Most points of a stroke. The page leaves out points that are closer than a quarter radius.
_MOST_POINTS = 4096
_LARGEST_RADIUS = 4096
#: Smallest radius that reaches the centre of a pixel from everywhere.
_ONE_PIXEL = 0.75


def edited(data: bytes, info: ModelInfo) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Apply the stroke of a frame -> head and parts of the response.

    Raises `InvalidInput` and its subclasses if anything in the frame is wrong.
    """
    head, parts = read_frame(data)
    width, height = image_size(head)
    fit = info.fit(width, height)
    points, radius, paint = _stroke(head)
    if "mask" in parts:
        mask = read_mask(parts["mask"], (width, height))
    else:
        mask = np.zeros((height, width), np.uint8)
    draw_stroke(mask, points, radius, paint=paint)
    answer = {**mask_head(mask, fit), "model_sha256": info.model_sha256}
    return answer, mask_parts(mask, coverage_of_mask(mask, fit))


def draw_stroke(
    mask: NDArray[np.uint8], points: NDArray[np.float64], radius: float, *, paint: bool
) -> None:
    """Set the pixels whose centres are at most `radius` from the line through the points.

    mask: (H, W) uint8, changed in place: 1 with `paint`, otherwise 0. points: (K, 2), (x, y) in
    pixels, inside or outside the mask.
    """
    height, width = mask.shape
    radius = max(radius, _ONE_PIXEL)
    for start, end in zip(points, np.vstack((points[1:], points[-1:])), strict=True):
        low = np.ceil(np.minimum(start, end) - radius).astype(int)
        high = np.floor(np.maximum(start, end) + radius).astype(int)
        x0, y0 = np.maximum(low, 0)
        x1, y1 = np.minimum(high + 1, (width, height))
        if x0 >= x1 or y0 >= y1:
            continue
        along = end - start
        length = float(along @ along)
        dx = np.arange(x0, x1)[None, :] - start[0]
        dy = np.arange(y0, y1)[:, None] - start[1]
        nearest = np.clip((dx * along[0] + dy * along[1]) / length, 0, 1) if length else 0
        distance = (dx - nearest * along[0]) ** 2 + (dy - nearest * along[1]) ** 2
        mask[y0:y1, x0:x1][distance <= radius**2] = paint


def _stroke(head: dict[str, Any]) -> tuple[NDArray[np.float64], float, bool]:
    points, radius, paint = head.get("points"), head.get("radius", 1), head.get("paint", True)
    if not isinstance(points, list) or len(points) > _MOST_POINTS:
        raise InvalidInput(
            f"got points of a stroke that are not a list of at most {_MOST_POINTS}; expected "
            "[[x, y], ...]. Paint it in several strokes"
        )
    pairs = all(isinstance(one, list) and len(one) == 2 for one in points)
    if not pairs or not all(_is_number(value) for one in points for value in one):
        raise InvalidInput("got a point that is not two numbers; expected [x, y] in pixels")
    if not _is_number(radius) or not 0 < radius <= _LARGEST_RADIUS or type(paint) is not bool:
        raise InvalidInput(
            f"got the radius {radius!r} and paint = {paint!r}; expected pixels from 0 to "
            f"{_LARGEST_RADIUS}, and true or false"
        )
    return np.array(points, dtype=np.float64).reshape(-1, 2), float(radius), paint


def _is_number(value: Any) -> bool:
    """Whether it is a number of a size that a stroke can have; in Python, true is an int."""
    return type(value) in (int, float) and abs(value) < 2**20
