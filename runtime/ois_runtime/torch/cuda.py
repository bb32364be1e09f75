"""What a GPU does for `torch_graphs`: streams, pinned memory, capturing a CUDA graph.

**Not run on a GPU yet**: written against PyTorch's documented API and checked by types, and that
captures take turns with CUDA's calls replaced; `tests/gpu/test_engine.py` is for the first GPU.
Everything that decides anything is in `torch_graphs` and `torch_plan`, which are tested with memory
of the CPU behind the same interface.
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
#: PyTorch captures one graph at a time in a process, whichever GPU it is for, and meanwhile its
#: allocator must not give memory back: neither on request, nor as cuDNN makes it after trying its
#: algorithms in a warm-up.
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


class CudaDevice:
    """A `GraphDevice`: one stream computes, another uploads images beside it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._compute = torch.cuda.Stream(device)
        self._uploads = torch.cuda.Stream(device)
        # One pool for all graphs: their intermediates take the room of the largest. Safe because
        # replays are one after another, and outputs are used before the next one.
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def computing(self) -> Iterator[None]:
        with torch.cuda.device(self.device), torch.cuda.stream(self._compute), exact_products():
            yield
            self._compute.synchronize()

    def upload(self, arrays: Arrays) -> Uploaded:
        with torch.cuda.device(self.device), torch.cuda.stream(self._uploads):
            tensors = {
                # The pinned copy is freed when the transfer has read it: its allocator waits.
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
            # Warm-up first: libraries allocate workspaces and try algorithms, which no graph may
            # do. The capture itself then takes the algorithms that were found: cuDNN's switch is
            # back by then, lest another engine try some, and free their memory, meanwhile.
            with measured_algorithms():
                for _ in range(_WARM_UP_RUNS):
                    run()
            self._compute.synchronize()
            graph = torch.cuda.CUDAGraph()
            # thread_local: another thread's upload may allocate meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"
            ):
                outputs = run()
        return Captured(graph.replay, outputs)

    def to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.generic]]:
        # Such copies land in pinned memory; all are under way before we wait for the last.
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
    """A copy that the GPU can read by itself."""
    tensor = torch.empty(array.shape, dtype=TORCH_TYPES[array.dtype], pin_memory=True)
    np.copyto(tensor.numpy(), array)
    return tensor
