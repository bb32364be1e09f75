"""Pictures that the page shows: images, masks, depth and order maps.

The gateway decodes the image, not the browser. So the user and the network see the same
orientation, transparency and frame of an animation, and formats that browsers cannot show (TIFF,
PPM) work too.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract import decoding
from ois_client.contract.errors import InvalidImage
from ois_client.contract.images import DEFAULT_LIMITS, ImageLimits, Picture, load_image

#: The same limits as a server's (`ServingOptions`).
LIMITS = ImageLimits(max_pixels=2**26, max_bytes=64 * 2**20)

#: Longest side of the picture that the page shows; browsers need 4 bytes per pixel.
SHOWN = 4096

_QUALITY = 90
#: Pictures up to this size are sent as PNG, because their pixels are visible.
_LOSSLESS_PIXELS = 2**18


def read_upload(data: bytes) -> Picture:
    """Decode the header of an uploaded file.

    Raises `InvalidImage`, with a message for the page's user, if it is not an image or exceeds
    `LIMITS`.
    """
    if len(data) > LIMITS.max_bytes:
        raise too_many_bytes(len(data))
    picture = load_image(data, ImageLimits(max_pixels=DEFAULT_LIMITS.max_pixels))
    pixels = picture.width * picture.height
    if pixels > LIMITS.max_pixels:
        raise InvalidImage(
            f"this image has {picture.width} x {picture.height} = {pixels / 1e6:.0f} megapixels; "
            f"the demo accepts up to {LIMITS.max_pixels / 1e6:.0f}. Scale it down and try again"
        )
    return picture


def too_many_bytes(size: int) -> InvalidImage:
    """Return the error for a file of `size` bytes."""
    return InvalidImage(
        f"this file has {size / 2**20:.0f} MiB; the demo accepts up to "
        f"{LIMITS.max_bytes // 2**20}. Save it as JPEG, or scale it down"
    )


def notes(picture: Picture) -> list[str]:
    """Return how the image was changed on decoding, as notes for the user; usually none."""
    found = []
    # Pillow's own size limit is larger than ours, which was checked.
    with Image.open(io.BytesIO(picture.data), formats=decoding.FORMATS) as image:
        if getattr(image, "is_animated", False):
            found.append("only the first frame of this file is used")
        if image.mode.startswith("I") or _is_deep_png(picture.data):
            found.append("16-bit samples were reduced to 8 bits")
        if decoding.orientation_of(image) > 1:
            found.append("rotated according to its EXIF orientation")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            found.append("transparent parts are shown white")
    return found


def _is_deep_png(data: bytes) -> bool:
    """Whether it is a 16-bit PNG (byte 24). Pillow reads colour ones as 8 bits silently."""
    return data.startswith(b"\x89PNG") and data[24:25] == b"\x10"


def shown_picture(picture: Picture) -> tuple[bytes, str]:
    """Encode the upright picture, at most `SHOWN` pixels per side. Returns bytes, media type.

    Raises `InvalidImage` if the pixel data is damaged.
    """
    image = Image.fromarray(picture.pixels())
    if max(image.size) > SHOWN:
        image.thumbnail((SHOWN, SHOWN), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    if image.width * image.height <= _LOSSLESS_PIXELS:
        image.save(file, "PNG", compress_level=3)
        return file.getvalue(), "image/png"
    image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue(), "image/jpeg"


def shrink_mask(mask: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Scale a mask down to at most `longest` pixels per side, by nearest neighbour.

    mask: (H, W) uint8, 1 = object. A smaller mask is returned as it is.
    """
    height, width = mask.shape
    scale = longest / max(height, width)
    if scale >= 1:
        return mask
    rows, columns = (
        ((np.arange(max(1, round(side * scale))) + 0.5) * side / max(1, round(side * scale)))
        for side in (height, width)
    )
    return mask[rows.astype(np.int64)[:, None], columns.astype(np.int64)]


def grey_png(values: NDArray[np.floating]) -> bytes:
    """Encode values as an 8-bit grey PNG. values: (h, w) in [0, 1], 0 = black and 1 = white."""
    grey = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG", compress_level=1)
    return file.getvalue()
