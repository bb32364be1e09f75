"""What a GPU must do for `torch_graphs`: upload, compute, capture what can be replayed, give back.

`torch_cuda.CudaDevice` is the real one. Tests have one in the CPU's memory, where a replay runs
the captured calls again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ois_runtime.engines.base import Arrays

Result = TypeVar("Result")
Outputs = TypeVar("Outputs")

TORCH_TYPES = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.bool_): torch.bool,
}


@dataclass(frozen=True, slots=True, eq=False)
class Uploaded:
    """Tensors on their way; computing with them starts with `wait()`."""

    tensors: dict[str, Tensor]
    wait: Callable[[], object]


@dataclass(frozen=True, slots=True, eq=False)
class Captured(Generic[Outputs]):
    """`replay()` runs what was captured again, on the same inputs' memory, into `outputs`."""

    replay: Callable[[], object]
    outputs: Outputs


class GraphDevice(Protocol):
    """A GPU. Only `upload` may be called beside another call."""

    device: torch.device

    def computing(self) -> AbstractContextManager[None]:
        """In this block the calling thread's work goes to the device; at its end it is done."""
        ...

    def upload(self, arrays: Arrays) -> Uploaded: ...

    def pinned(self, nbytes: int) -> Tensor:
        """(nbytes,) uint8 zeros in the CPU's memory, which the device reads by itself."""
        ...

    def capture(self, run: Callable[[], Result]) -> Captured[Result]: ...

    def to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.generic]]:
        """Copies, finished."""
        ...

    def release_memory(self) -> None:
        """Give back what is only cached."""

    def memory(self) -> tuple[int, int]:
        """Free and all bytes."""
        ...
