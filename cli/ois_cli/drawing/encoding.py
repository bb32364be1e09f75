"""Arrays -> the bytes of picture files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_cli.files import PICTURE_FORMATS
from ois_client.contract.errors import OutputError

_QUALITY = 92  # of JPEG and WebP; PNG ignores it


def picture_bytes(picture: NDArray[np.uint8], path: Path) -> bytes:
    """(H, W, 3) RGB or (H, W) grey -> bytes in the format that `path` ends in.

    Raises `OutputError` when the format cannot hold it (WebP ends at 16383 pixels a side).
    """
    data = io.BytesIO()
    form = PICTURE_FORMATS[path.suffix.lower()]
    try:
        Image.fromarray(picture).save(data, form, quality=_QUALITY)
    except (OSError, ValueError) as error:
        height, width = picture.shape[:2]
        raise OutputError(
            f"cannot store a picture of {width}x{height} pixels as {form} ({error}); "
            f"name {path.with_suffix('.png')} instead"
        ) from error
    return data.getvalue()


def mask_bytes(labels: NDArray[np.uint8], path: Path, *, several: bool) -> bytes:
    """labels: (H, W), 0 background, k = object k -> 8-bit grey.

    One object is stored as 255, as every viewer shows it; `several` keep their numbers.
    """
    stored = labels if several else np.where(labels > 0, 255, 0).astype(np.uint8)
    return picture_bytes(stored, path)
