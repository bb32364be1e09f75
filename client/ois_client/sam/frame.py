"""The frame of `predict_torch`: SAM's is its resized input, ours is what the network sees.

Code written for SAM moves its points there with `predictor.transform`; this is that object.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.transport import ModelInfo

#: How far outside the image float32 may move a point on its border there and back, in pixels.
_ROUNDING_PX = 1e-2

NO_BOXES = (
    "got a box; this network's prompts are clicks. Click on the object's middle, and negatively "
    "on what else the box would hold"
)


class ClickTransform:
    """In the place of SAM's `ResizeLongestSide`: points of the image to points of the input."""

    def __init__(self, info: ModelInfo) -> None:
        self._longest, self._patch = info.longest, info.patch

    @property
    def target_length(self) -> int:
        """Longest side of the network's input, pixels."""
        return self._longest

    def apply_coords(
        self, coords: ArrayLike, original_size: tuple[int, ...]
    ) -> NDArray[np.float32]:
        """(..., 2), (x, y) in image pixels -> float32, (x, y) in input pixels.

        original_size: (H, W) of the image.
        """
        height, width = original_size
        fit = Geometry.fit(width, height, longest=self._longest, patch=self._patch)
        return fit.to_network(np.asarray(coords))

    def apply_coords_torch(self, coords: Any, original_size: tuple[int, ...]) -> Any:
        """`apply_coords` of a tensor -> a float32 tensor on the same device."""
        return tensor_like(coords, self.apply_coords(array_of(coords), original_size))

    def apply_boxes(
        self,
        boxes: object,  # noqa: ARG002 - SAM's names
        original_size: object,  # noqa: ARG002
    ) -> NoReturn:
        """Always raises `InvalidInput`."""
        raise InvalidInput(NO_BOXES)

    apply_boxes_torch = apply_boxes


def points_of_input(coords: NDArray[np.generic], geometry: Geometry) -> NDArray[np.float32]:
    """(..., 2), (x, y) in input pixels -> float32, (x, y) in image pixels.

    A point on the image's border stays there; one outside stays outside, to be refused as a click.
    """
    points = geometry.to_image(np.asarray(coords, dtype=np.float64))
    last = np.array([geometry.width - 1, geometry.height - 1], dtype=np.float32)
    on_border = (points > -_ROUNDING_PX) & (points < last + _ROUNDING_PX)
    return np.where(on_border, np.clip(points, 0, last), points)


def array_of(tensor: Any) -> NDArray[Any]:
    """A tensor -> an array. Raises `InvalidInput` for what is no tensor."""
    if not hasattr(tensor, "detach"):
        raise InvalidInput(
            f"got {type(tensor).__name__}; expected a torch.Tensor. predict takes arrays"
        )
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


def tensor_like(tensor: Any, array: NDArray[Any]) -> Any:
    """An array -> a tensor on the device of `tensor`.

    torch is not imported here: whoever made a tensor has done so.
    """
    return sys.modules["torch"].from_numpy(np.ascontiguousarray(array)).to(tensor.device)
