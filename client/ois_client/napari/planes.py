"""Planes of napari's layers: the picture that the network gets, and where masks and clicks go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import Mask

#: Where a plane lies in a layer: the index along each leading axis.
Place = tuple[int, ...]


def place_of(position: Sequence[float], shape: Sequence[int]) -> tuple[Place, float, float]:
    """A position in a layer's data -> its plane, and (x, y) in the plane's pixels.

    position: napari's data coordinates, in which pixel centres are at integers, as in `Click`.
    shape: of the layer's data without colour channels. Raises `InvalidInput` if the position is
    outside.
    """
    *leading, y, x = (float(value) for value in position)
    place = tuple(round(value) for value in leading)
    inside = all(0 <= index < size for index, size in zip(place, shape, strict=False))
    height, width = shape[-2:]
    if not inside or not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
        raise InvalidInput(
            f"got a click at ({x:.0f}, {y:.0f}), which is outside the image of {width}x{height} "
            "pixels"
        )
    return place, min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)


def check_axes(displayed: Sequence[int], ndim: int) -> None:
    """Raises `InvalidInput` unless the viewer shows the last two axes of data, as a plane."""
    if tuple(displayed) != (ndim - 2, ndim - 1):
        raise InvalidInput(
            f"the viewer shows the axes {tuple(displayed)}; expected {(ndim - 2, ndim - 1)}. Show "
            "the layer in 2D, with its axes in their order"
        )


def picture_of(
    data: Any, place: Place, rgb: bool, contrast: tuple[float, float]
) -> NDArray[np.uint8]:
    """One plane of an image layer as napari shows it -> (H, W, 3) uint8.

    data: an array, (..., H, W), or (..., H, W, 3 or 4) if `rgb`. contrast: the values that are
    shown as black and as white.
    """
    plane = np.asarray(data[place])
    if rgb:
        plane = plane[..., :3]
        if plane.dtype == np.uint8:
            return np.ascontiguousarray(plane)
        scaled = plane.astype(np.float64) * (255.0 if plane.dtype.kind == "f" else 1.0)
    else:
        low, high = contrast
        scaled = (plane.astype(np.float64) - low) * (255.0 / max(high - low, 1e-12))
        scaled = np.repeat(scaled[..., None], 3, axis=-1)
    return np.clip(np.nan_to_num(scaled), 0, 255).round().astype(np.uint8)


def changes(
    plane: NDArray[Any], label: int, mask: Mask, keep_others: bool
) -> tuple[tuple[NDArray[np.intp], ...], NDArray[Any]]:
    """The pixels of a plane of labels that an object's new mask changes, and their new labels.

    plane: (H, W) labels. keep_others: whether other labels stay where the mask covers them.
    """
    inside = mask.astype(bool)
    if keep_others:
        inside &= (plane == 0) | (plane == label)
    wanted = np.where(inside, label, np.where(plane == label, 0, plane)).astype(plane.dtype)
    where = np.nonzero(wanted != plane)
    return where, wanted[where]


def points_of(clicks: Sequence[Click], place: Place) -> NDArray[np.float64]:
    """Clicks on a plane -> (K, len(place) + 2) positions in the layer's data."""
    rows = [[*place, click.y, click.x] for click in clicks]
    return np.array(rows, dtype=np.float64).reshape(-1, len(place) + 2)
