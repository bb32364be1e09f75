"""Coverage: what object-aware attention needs to know of the previous mask.

`coverage (gh, gw) uint8` is the share of each patch that the mask covers, 0..255. Only its
two ends decide anything: 0 means *no* foreground pixel in the patch, 255 means *no*
background pixel. Everything between is both foreground and background, so a fence or a
racket's strings survive the patch size and boundary patches belong to both sides
(paper Eq. 4, 5). A session's whole server-side memory is this array and its clicks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry


def coverage_of_mask(mask: NDArray[np.generic], geometry: Geometry) -> NDArray[np.uint8]:
    """mask: (H, W) bool or 0/1 in the original image, 1 = object -> coverage (gh, gw) uint8.

    Raises `InvalidInput` when the mask's shape is not the image's.
    """
    if mask.shape != (geometry.height, geometry.width):
        raise InvalidInput(
            f"got a mask of shape {mask.shape}; expected (H, W) = "
            f"{(geometry.height, geometry.width)}, the size of the image it belongs to"
        )
    size = (geometry.grid_width, geometry.grid_height)
    picture = Image.fromarray((mask != 0).astype(np.float32))
    share = np.asarray(picture.resize(size, Image.Resampling.BOX))
    return quantise_share(share)


def quantise_share(share: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Shares in [0, 1] -> 0..255 where 0 and 255 are kept for exactly none and exactly all."""
    share = np.asarray(share, dtype=np.float64)
    inner = np.clip(np.rint(share * 255), 1, 254)
    # A mean of ones comes back as 1 - 1e-7; one pixel of a 200-megapixel image's patch is 1e-5.
    return np.where(share <= 0, 0, np.where(share > 1 - 2e-6, 255, inner)).astype(np.uint8)
