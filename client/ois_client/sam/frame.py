"""The coordinates of `predict_torch`: pixels of the network's input.

Code written for SAM converts its points with `predictor.transform`, which is a `ClickTransform`.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.transport import ModelInfo

#: Largest rounding error in pixels of a point on the image's border that is converted to float32
#: input pixels and back.
_ROUNDING_PX = 1e-2

NO_BOXES = (
    "got a box; expected clicks, the only prompts of this network. Click on the middle of the "
    "object, and negatively on other objects in the box, or let a box stand for such clicks: "
    'OISPredictor(..., boxes="clicks")'
)

NO_RESIZING = (
    "got an image to resize or a resized image; expected the original, because clicks and masks "
    "are in its pixels and the server resizes it. Call set_image with the original image, "
    "(H, W, 3) uint8"
)


class ClickTransform:
    """Replaces SAM's `ResizeLongestSide`: converts image pixels to input pixels."""

    def __init__(self, info: ModelInfo, *, boxes: bool = False) -> None:
        """boxes: whether the predictor takes boxes."""
        self._longest, self._patch = info.longest, info.patch
        self._boxes = boxes

    @property
    def target_length(self) -> int:
        """Longest side of the network's input in pixels."""
        return self._longest

    def apply_image(self, image: object) -> NoReturn:  # noqa: ARG002 - SAM's name
        """Always raises `InvalidInput`, because the server resizes the image."""
        raise InvalidInput(NO_RESIZING)

    apply_image_torch = apply_image

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
        """`apply_coords` for a tensor -> a float32 tensor on the same device."""
        return tensor_like(coords, self.apply_coords(array_of(coords), original_size))

    def apply_boxes(self, boxes: ArrayLike, original_size: tuple[int, ...]) -> NDArray[np.float32]:
        """(B, 4), (x1, y1, x2, y2) in image pixels -> float32 in input pixels.

        Raises `InvalidInput` unless the predictor takes boxes.
        """
        self._check_boxes()
        corners = np.asarray(boxes).reshape(-1, 2, 2)
        return self.apply_coords(corners, original_size).reshape(-1, 4)

    def apply_boxes_torch(self, boxes: Any, original_size: tuple[int, ...]) -> Any:
        """`apply_boxes` for a tensor -> a float32 tensor on the same device."""
        self._check_boxes()
        return tensor_like(boxes, self.apply_boxes(array_of(boxes), original_size))

    def _check_boxes(self) -> None:
        if not self._boxes:
            raise InvalidInput(NO_BOXES)


def points_of_input(coords: NDArray[np.generic], geometry: Geometry) -> NDArray[np.float32]:
    """(..., 2), (x, y) in input pixels -> float32, (x, y) in image pixels.

    A point on the image's border stays there. A point outside stays outside and is then refused.
    """
    points = geometry.to_image(np.asarray(coords, dtype=np.float64))
    last = np.array([geometry.width - 1, geometry.height - 1], dtype=np.float32)
    on_border = (points > -_ROUNDING_PX) & (points < last + _ROUNDING_PX)
    return np.where(on_border, np.clip(points, 0, last), points)


def array_of(tensor: Any) -> NDArray[Any]:
    """A tensor -> an array; bfloat16, which NumPy lacks, as float32, and bool as int32.

    Raises `InvalidInput` if it is not a tensor.
    """
    if not hasattr(tensor, "detach"):
        raise InvalidInput(
            f"got {type(tensor).__name__}; expected a torch.Tensor. Call predict for arrays"
        )
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    array: NDArray[Any] = tensor.numpy()
    return array.astype(np.int32) if array.dtype == np.bool_ else array


def tensor_like(tensor: Any, array: NDArray[Any]) -> Any:
    """An array -> a tensor on the device of `tensor`.

    torch is not imported here, because the caller who made `tensor` has imported it.
    """
    return sys.modules["torch"].from_numpy(np.ascontiguousarray(array)).to(tensor.device)
