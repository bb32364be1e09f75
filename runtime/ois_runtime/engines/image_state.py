"""`ImageState`, the encoder's outputs for one image, and the depth and order maps made from it.

The decoder takes each output of the encoder under the same name. Only the depth arrays have a
meaning here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.geometry import Geometry

# If the depth range is smaller, D is 0 everywhere instead of 0/0, as in the network.
_SMALLEST_RANGE = 1e-6


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ImageState:
    """The encoder's outputs for one image, read-only, with the image's geometry.

    `arrays` always contains `depth (1, h, w) float32`, raw inverse depth (larger = nearer), and its
    `depth_min (1)` and `depth_max (1)`. All have batch size 1 and broadcast over N objects.
    Raises `EngineError` if the depth is missing, has another shape, or is not finite.
    """

    arrays: Mapping[str, NDArray[np.generic]]
    geometry: Geometry

    def __post_init__(self) -> None:
        check_depth(self.arrays, self.geometry)
        # All clicks on the image share them, so a write would change later masks.
        for array in self.arrays.values():
            array.flags.writeable = False
        object.__setattr__(self, "arrays", MappingProxyType(dict(self.arrays)))

    @property
    def nbytes(self) -> int:
        """Size of all arrays in bytes."""
        return sum(array.nbytes for array in self.arrays.values())


def check_depth(given: Mapping[str, Any], geometry: Geometry) -> None:
    """Raise `EngineError` if the encoder's depth is missing, has a wrong shape or is not finite.

    given: the encoder's outputs: NumPy arrays, or tensors of any library that have `shape`.
    """
    shapes = {
        "depth": (1, geometry.network_height, geometry.network_width),
        "depth_min": (1,),
        "depth_max": (1,),
    }
    for name, shape in shapes.items():
        if name not in given:
            raise EngineError(f"the encoder has no output {name!r}; expected one of shape {shape}")
        if tuple(given[name].shape) != shape:
            raise EngineError(
                f"the encoder's {name!r} has shape {tuple(given[name].shape)}; expected {shape}"
            )
    for name in ("depth_min", "depth_max"):
        value = float(given[name][0])
        if not math.isfinite(value):
            raise EngineError(
                f"the encoder's {name!r} is {value}: the arithmetic overflowed. Use a precision "
                "with a larger range: bf16 or fp32"
            )


def order_depth(state: ImageState) -> NDArray[np.float32]:
    """The relative depth D, (h, w) float32 at network size: near 0, far 1."""
    low = np.float32(state.arrays["depth_min"][0])
    high = np.float32(state.arrays["depth_max"][0])
    span = np.maximum(high - low, np.float32(_SMALLEST_RANGE))
    depth = np.asarray(state.arrays["depth"][0], dtype=np.float32)
    return np.clip((high - depth) / span, 0, 1)


@dataclass(frozen=True, slots=True)
class OrderMaps:
    """Order maps of one object's clicks; 0 is the depth of the click [paper Eq. 1, 2].

    positive: (h, w) float32, one map for all positive clicks, or None without a positive click.
    negative: (Q, h, w) float32, one map per negative click, in click order.
    """

    positive: NDArray[np.float32] | None
    negative: NDArray[np.float32]


def order_maps(
    depth: NDArray[np.floating], clicks: Sequence[Click], geometry: Geometry
) -> OrderMaps:
    """Compute `M⁺ = |D − mean_j D(p_j⁺)|` and `M⁻_i = |D − D(p_i⁻)|` at network size.

    depth: (h, w), D with near 0 and far 1. clicks: in image pixels. D(p) is bilinear.
    Raises `InvalidInput` if the depth does not have the geometry's network size, and `InvalidClick`
    if a click lies outside the image.
    """
    depth = np.asarray(depth, dtype=np.float32)
    shape = (geometry.network_height, geometry.network_width)
    if depth.shape != shape:
        raise InvalidInput(f"got a depth of shape {depth.shape}; expected {shape}, network size")
    for click in clicks:
        click.check(geometry.width, geometry.height)
    points = geometry.to_network(np.array([(c.x, c.y) for c in clicks]).reshape(-1, 2))
    at_click = depth_at(depth, points)
    is_positive = np.array([click.positive for click in clicks], dtype=bool)
    positive = None
    if is_positive.any():
        positive = np.abs(depth - at_click[is_positive].mean(dtype=np.float32))
    return OrderMaps(positive, np.abs(depth - at_click[~is_positive, None, None]))


def depth_at(depth: NDArray[np.float32], points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Sample depth (h, w) bilinearly at points (P, 2), (x, y) in network pixels -> (P,) float32.

    A point in the outermost half pixel takes the value at the border.
    """
    height, width = depth.shape
    x = np.clip(points[:, 0], 0, width - 1)
    y = np.clip(points[:, 1], 0, height - 1)
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (x - left).astype(np.float32), (y - top).astype(np.float32)
    upper = depth[top, left] * (1 - fx) + depth[top, right] * fx
    lower = depth[bottom, left] * (1 - fx) + depth[bottom, right] * fx
    return upper * (1 - fy) + lower * fy
