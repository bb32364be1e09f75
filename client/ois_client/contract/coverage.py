"""Coverage: the previous mask at patch size, as object-aware attention uses it.

`coverage (gh, gw) uint8` is the fraction of each patch that the mask covers, scaled to 0..255.
The network distinguishes three cases: 0 means that the patch has *no* foreground pixel, 255 that
it has *no* background pixel, and every other value that it has both. So thin structures such as
a fence survive the reduction, and patches on the boundary count for both sides (paper Eq. 4, 5).
Every click request carries this array, so the server stores no masks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry


def coverage_of_mask(mask: NDArray[np.generic], geometry: Geometry) -> NDArray[np.uint8]:
    """mask: (H, W) bool or 0/1 in the original image, 1 = object -> coverage (gh, gw) uint8.

    Raises `InvalidInput` if the mask does not have the image's shape.
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
    """Fractions in [0, 1] -> 0..255, where only exactly 0 and exactly 1 become 0 and 255."""
    share = np.asarray(share, dtype=np.float64)
    inner = np.clip(np.rint(share * 255), 1, 254)
    # The mean of ones is computed as 1 - 1e-7. One pixel of a patch of a 200-megapixel image
    # is 1e-5.
    return np.where(share <= 0, 0, np.where(share > 1 - 2e-6, 255, inner)).astype(np.uint8)
