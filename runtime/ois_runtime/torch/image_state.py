"""An image's features as PyTorch tensors on the device that the engines run on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ois_client.contract.geometry import Geometry
from ois_runtime.engines.image_state import ImageState, check_depth

_serials = itertools.count()


class HostArrays(Mapping[str, NDArray[np.generic]]):
    """Tensors as read-only NumPy arrays, each copied from the device at every access.

    Clicks need none of them. Depth and order maps need the depth.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        tensor = self._tensors[name]
        # NumPy has no bfloat16.
        wide = tensor.float() if tensor.is_floating_point() else tensor
        array: NDArray[np.generic] = wide.cpu().numpy()
        array = array.view()
        array.flags.writeable = False
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True, slots=True, eq=False)
class TorchState(ImageState):
    """An `ImageState` on a device: `tensors` are there, and `arrays` copies them when accessed.

    serial: a number that no other state of the process has, so that buffers know whose they hold.
    """

    tensors: Mapping[str, Tensor]
    serial: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], geometry: Geometry, **more: Any) -> Self:
        """Make a state with a new serial. more: fields of a derived class.

        Raises `EngineError` if the depth is missing, has a wrong shape or is not finite.
        """
        return cls(HostArrays(tensors), geometry, tensors, next(_serials), **more)

    def __post_init__(self) -> None:
        check_depth(self.tensors, self.geometry)

    @property
    def nbytes(self) -> int:
        """Size of all tensors on the device in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())
