"""Pictures between the page and the engines: what is shown of an image, of a mask, of depth.

The page shows what the gateway decoded, not what the browser would decode: so orientation,
transparency and the first picture of an animation are the same for the person who clicks and for
the network, and formats that browsers do not know (TIFF, PPM) can be clicked on too.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract import decoding
from ois_client.contract.errors import InvalidImage
from ois_client.contract.images import DEFAULT_LIMITS, ImageLimits, Picture, load_image

#: What a server takes, too (`ServingOptions`).
LIMITS = ImageLimits(max_pixels=2**26, max_bytes=64 * 2**20)

#: Longest side of the picture that is shown; browsers hold it as 4 bytes a pixel.
SHOWN = 4096

_QUALITY = 90
#: Small pictures are shown without loss: their pixels can be seen.
_LOSSLESS_PIXELS = 2**18


def read_upload(data: bytes) -> Picture:
    """An uploaded file -> a picture within `LIMITS`; the message is for the person at the page.

    Raises `InvalidImage`.
    """
    if len(data) > LIMITS.max_bytes:
        raise too_many_bytes(len(data))
    picture = load_image(data, ImageLimits(max_pixels=DEFAULT_LIMITS.max_pixels))
    pixels = picture.width * picture.height
    if pixels > LIMITS.max_pixels:
        raise InvalidImage(
            f"this picture has {picture.width} x {picture.height} = {pixels / 1e6:.0f} megapixels; "
            f"the demo takes up to {LIMITS.max_pixels / 1e6:.0f}. Scale it down and try again"
        )
    return picture


def too_many_bytes(size: int) -> InvalidImage:
    return InvalidImage(
        f"this file has {size / 2**20:.0f} MiB; the demo takes up to "
        f"{LIMITS.max_bytes // 2**20}. Save it as JPEG, or scale it down"
    )


def notes(picture: Picture) -> list[str]:
    """What was decided about an uploaded picture that a person may not expect; mostly empty."""
    found = []
    # Pillow's own limit on `open` is above ours, which was checked.
    with Image.open(io.BytesIO(picture.data), formats=decoding.FORMATS) as image:
        if getattr(image, "is_animated", False):
            found.append("only the first picture of this file is used")
        if image.mode.startswith("I") or _is_deep_png(picture.data):
            found.append("16-bit samples are used with 8 bits")
        if decoding.orientation_of(image) > 1:
            found.append("turned upright, as its EXIF orientation says")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            found.append("transparent parts are white")
    return found


def _is_deep_png(data: bytes) -> bool:
    """Whether it is a PNG of 16 bits a sample (byte 24); Pillow reads colour ones as 8 bits."""
    return data.startswith(b"\x89PNG") and data[24:25] == b"\x10"


def shown_picture(picture: Picture) -> tuple[bytes, str]:
    """The upright picture, at most `SHOWN` pixels a side -> (bytes, media type).

    Raises `InvalidImage` when the pixel data is damaged.
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
    """mask: (H, W), 1 = object -> the same, at most `longest` pixels a side, nearest pixels."""
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
    """values: (h, w), in [0, 1] -> an 8-bit grey PNG, 0 black and 1 white."""
    grey = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG", compress_level=1)
    return file.getvalue()
