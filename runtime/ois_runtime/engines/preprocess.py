"""A picture -> the encoder's image input.

The mapping is `Geometry`'s; the filter is Pillow's bicubic, which averages when it shrinks.
Both are named by `PREPROCESS_VERSION`, which is part of every cache key.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.errors import InvalidImage
from ois_client.contract.geometry import PREPROCESS_VERSION, Geometry
from ois_client.contract.images import Picture

__all__ = ["PREPROCESS_VERSION", "preprocess"]


def preprocess(
    image: Picture | NDArray[np.uint8], *, longest: int, patch: int = 14
) -> tuple[NDArray[np.uint8], Geometry]:
    """A `Picture`, or pixels (H, W, 3) uint8 RGB -> image (h, w, 3) uint8 RGB at network size.

    Raises `InvalidImage` when the picture cannot be decoded or the pixels have another shape
    or type.
    """
    pixels = image.pixels() if isinstance(image, Picture) else image
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise InvalidImage(
            f"got pixels of shape {pixels.shape} and type {pixels.dtype}; expected (H, W, 3) "
            "uint8, RGB"
        )
    height, width = pixels.shape[:2]
    geometry = Geometry.fit(width, height, longest=longest, patch=patch)
    size = (geometry.network_width, geometry.network_height)
    if (width, height) == size:
        return np.ascontiguousarray(pixels), geometry
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return np.array(resized), geometry
