"""What the page gets with a mask: its picture to draw, the mask itself, and its coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_cli.clicking import object_box
from ois_cli.demo.gateway.pictures import LIMITS, shrink_mask
from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import mask_of_png, png_of_mask

#: Longest side of the mask that the page draws. The mask at the image's size is sent besides.
SHOWN_MASK = 2048

_PNG = b"\x89PNG\r\n\x1a\n"


def mask_head(mask: NDArray[np.uint8], fit: Geometry) -> dict[str, Any]:
    """mask: (H, W) uint8, 1 = object -> area_px, box_xyxy and the grid [gh, gw] of patches."""
    return {
        "area_px": int(mask.sum(dtype=np.int64)),
        "box_xyxy": object_box(mask),
        "grid": [fit.grid_height, fit.grid_width],
    }


def mask_parts(
    mask: NDArray[np.uint8], coverage: NDArray[np.uint8], *, full: bool = True
) -> dict[str, bytes]:
    """The parts of a response: shown, coverage and, with `full`, mask. See `clicks.py`.

    mask: (H, W) uint8, 1 = object. coverage: uint8, of shape `Geometry.coverage_shape`.
    """
    parts = {"shown": png_of_mask(shrink_mask(mask, SHOWN_MASK))}
    if full:
        small = max(mask.shape) <= SHOWN_MASK
        parts["mask"] = parts["shown"] if small else png_of_mask(mask)
    parts["coverage"] = coverage.tobytes()
    return parts


def read_mask(png: bytes, expected: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A mask that the page sends, as PNG -> (H, W) uint8, 1 = object.

    expected: (width, height), or None for any size. Raises `InvalidInput` if it is another mask,
    or larger than any image of the page, before memory is allocated for it.
    """
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    if png.startswith(_PNG) and width * height > LIMITS.max_pixels:
        raise InvalidInput(
            f"got a mask of {width} x {height} pixels; expected at most {LIMITS.max_pixels} "
            "pixels, the demo's limit for images"
        )
    return mask_of_png(png, expected=expected)
