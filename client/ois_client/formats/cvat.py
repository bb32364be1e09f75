"""CVAT's masks: run lengths along the rows of the object's box, background first, then the box.

    [run, run, ..., left, top, right, bottom]        # right and bottom are inclusive

This list is the `points` of a CVAT shape of type "mask". The box is the tightest around the
object. For an empty mask it is the first pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import Mask, check_mask, mask_of_runs, run_lengths


def box_of_mask(mask: NDArray[np.generic]) -> tuple[int, int, int, int]:
    """(H, W) bool or 0/1 -> left, top, right, bottom of the object, all inclusive.

    For an empty mask, the first pixel. Raises `InvalidInput` if it is not a mask.
    """
    mask = check_mask(mask)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def cvat_of_mask(mask: NDArray[np.generic]) -> list[int]:
    """(H, W) bool or 0/1 -> CVAT's list, as `cvat_sdk.masks.encode_mask` writes it."""
    mask = check_mask(mask)
    left, top, right, bottom = box_of_mask(mask)
    box = mask[top : bottom + 1, left : right + 1]
    # `run_lengths` goes down columns, so the box is transposed.
    return [*run_lengths(box.T).tolist(), left, top, right, bottom]


def mask_of_cvat(values: Sequence[float], width: int, height: int) -> Mask:
    """CVAT's list -> (H, W) uint8 0/1 of a `width` x `height` image.

    The numbers may be floats with whole values, as in CVAT's JSON. Raises `InvalidInput` if the
    box is not inside the image or the runs do not fill the box.
    """
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    fits = numbers.ndim == 1 and numbers.size >= 5 and (np.abs(numbers) <= 2**53).all()
    if not fits or (numbers % 1).any():
        raise InvalidInput(
            "got a value that is not a CVAT mask; expected a list of whole numbers, the runs and "
            "then left, top, right, bottom"
        )
    whole = numbers.astype(np.int64)
    left, top, right, bottom = whole[-4:].tolist()
    if not (0 <= left <= right < width and 0 <= top <= bottom < height):
        raise InvalidInput(
            f"got a CVAT mask with the box {[left, top, right, bottom]}; expected left <= right < "
            f"{width} and top <= bottom < {height}, the size of the image it belongs to"
        )
    mask = np.zeros((height, width), dtype=np.uint8)
    box = mask_of_runs(whole[:-4], bottom - top + 1, right - left + 1)
    mask[top : bottom + 1, left : right + 1] = box.T
    return mask
