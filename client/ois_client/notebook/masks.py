"""Masks as pictures in notebooks: what `%load_ext ois_client.notebook` switches on.

Masks are plain NumPy arrays, so that they work with every library, and a notebook prints an array's
numbers. The extension shows those that are masks as pictures instead. Nothing else changes.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

#: Longest side of the picture, as of a session's.
LONGEST = 800
#: Smaller arrays are rather tables of numbers than masks of a picture.
SMALLEST = 16


def png_of_mask(array: np.ndarray[Any, Any]) -> bytes | None:
    """The mask as a PNG, white = object, at most `LONGEST` pixels wide and high.

    None if the array is no mask: (H, W), bool or uint8 with only 0 and 1, no side below `SMALLEST`.
    """
    if array.ndim != 2 or array.dtype not in (np.bool_, np.uint8) or min(array.shape) < SMALLEST:
        return None
    if array.dtype == np.uint8 and array.max() > 1:
        return None
    picture = Image.fromarray(array.astype(np.uint8) * np.uint8(255))
    shrink = min(1.0, LONGEST / max(picture.size))
    if shrink < 1:
        width, height = (max(1, round(side * shrink)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def load_ipython_extension(shell: Any) -> None:
    """IPython calls this for `%load_ext ois_client.notebook`."""
    shell.display_formatter.formatters["image/png"].for_type(np.ndarray, png_of_mask)


def unload_ipython_extension(shell: Any) -> None:
    """IPython calls this for `%unload_ext ois_client.notebook`."""
    shell.display_formatter.formatters["image/png"].pop(np.ndarray, None)
