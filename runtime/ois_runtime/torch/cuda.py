"""What `graphs.GraphRunner` needs of a GPU: uploads, one compute stream, captured CUDA graphs.

`GraphDevice` is the interface and `CudaDevice` the GPU; importing this module does not start CUDA.
Decisions are made in `graphs` and `graph_pool`, which are tested with a `GraphDevice` in the CPU's
memory.

**`CudaDevice` was not run on a GPU yet**: it is written against PyTorch's documented API and type
checked, and one test replaces CUDA's calls to check that captures take turns.
`tests/gpu/test_engine.py` tests it on a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ois_runtime.engines.pair import Arrays
from ois_runtime.torch.device import exact_products, measured_algorithms

_WARM_UP_RUNS = 3
#: A process can capture only one graph at a time, on any GPU. During a capture the allocator must
#: not free memory, neither on request nor when cuDNN tries its algorithms in a warm-up.
_CAPTURING = threading.Lock()

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
    """Tensors that are being uploaded. Call `wait()` before computing with them."""

    tensors: dict[str, Tensor]
    wait: Callable[[], object]


@dataclass(frozen=True, slots=True, eq=False)
class Captured(Generic[Outputs]):
    """A captured run. `replay()` repeats it on the same input memory and writes into `outputs`."""

    replay: Callable[[], object]
    outputs: Outputs


class GraphDevice(Protocol):
    """A GPU. Only `upload` may run concurrently with another call."""

    device: torch.device

    def computing(self) -> AbstractContextManager[None]:
        """In this block the calling thread computes on the device; at its end all work is done."""
        ...

    def upload(self, arrays: Arrays) -> Uploaded: ...

    def pinned(self, nbytes: int) -> Tensor:
        """(nbytes,) uint8 zeros in CPU memory that the device can read directly."""
        ...

    def capture(self, run: Callable[[], Result]) -> Captured[Result]: ...

    def to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.generic]]:
        """Copies in CPU memory. Returns when they are complete."""
        ...

    def release_memory(self) -> None:
        """Return cached memory to the device."""

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        ...


class CudaDevice:
    """A `GraphDevice` with one stream for computing and one for uploads, which run in parallel."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._compute = torch.cuda.Stream(device)
        self._uploads = torch.cuda.Stream(device)
        # All graphs share one memory pool, so their intermediates need only the memory of the
        # largest. Safe because replays never overlap and outputs are used before the next replay.
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def computing(self) -> Iterator[None]:
        with torch.cuda.device(self.device), torch.cuda.stream(self._compute), exact_products():
            yield
            self._compute.synchronize()

    def upload(self, arrays: Arrays) -> Uploaded:
        with torch.cuda.device(self.device), torch.cuda.stream(self._uploads):
            tensors = {
                # The allocator keeps the pinned copy until the transfer is complete.
                name: _pinned(array).to(self.device, non_blocking=True)
                for name, array in arrays.items()
            }
            for tensor in tensors.values():
                tensor.record_stream(self._compute)
            done = torch.cuda.Event()
            done.record(self._uploads)
        return Uploaded(tensors, lambda: self._compute.wait_event(done))

    def pinned(self, nbytes: int) -> Tensor:
        return torch.zeros(nbytes, dtype=torch.uint8, pin_memory=True)

    def capture(self, run: Callable[[], Result]) -> Captured[Result]:
        with _CAPTURING:
            # Libraries allocate workspaces and try algorithms in the first runs, which is not
            # allowed during a capture. The capture uses the algorithms that were found. cuDNN's
            # benchmark mode is off again by then: otherwise another engine could try algorithms,
            # and free their memory, during the capture.
            with measured_algorithms():
                for _ in range(_WARM_UP_RUNS):
                    run()
            self._compute.synchronize()
            graph = torch.cuda.CUDAGraph()
            # thread_local: another thread may allocate for an upload during the capture.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"
            ):
                outputs = run()
        return Captured(graph.replay, outputs)

    def to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.generic]]:
        # PyTorch copies into pinned memory here, so all copies run before one wait.
        copies = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        self._compute.synchronize()
        return {name: tensor.numpy() for name, tensor in copies.items()}

    def release_memory(self) -> None:
        with _CAPTURING:
            torch.cuda.empty_cache()

    def memory(self) -> tuple[int, int]:
        free, total = torch.cuda.mem_get_info(self.device)
        return free, total


def _pinned(array: NDArray[np.generic]) -> Tensor:
    """A copy in pinned memory, which the GPU can read directly."""
    tensor = torch.empty(array.shape, dtype=TORCH_TYPES[array.dtype], pin_memory=True)
    np.copyto(tensor.numpy(), array)
    return tensor
