"""What `graphs.GraphRunner` needs of a GPU: uploads, two streams, captured CUDA graphs.

`GraphDevice` is the interface and `CudaDevice` the GPU; importing this module does not start CUDA.
Decisions are made in `graphs` and `graph_pool`, which are tested with a `GraphDevice` in the CPU's
memory.

**`CudaDevice` was not run on a GPU yet**: it is written against PyTorch's documented API and type
checked, and tests replace CUDA's calls to check that captures take turns, find cuDNN's fastest
algorithms, and use the right stream. `tests/gpu/test_engine.py` tests it on a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from statistics import median
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ois_runtime.engines.pair import Arrays
from ois_runtime.torch.device import exact_products, measured_algorithms
from ois_runtime.torch.gpu_thread import in_new_thread

_WARM_UP_RUNS = 3
_TIMED_REPLAYS = 15
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


class Lane(IntEnum):
    """Two kinds of work that run at the same time. Each lane runs its own work in order.

    The value is the priority of the lane's stream and of its jobs: the lower comes first. So a
    click of a millisecond does not wait for another user's encode of many.
    """

    CLICKS = -1
    ENCODES = 0


@dataclass(frozen=True, slots=True, eq=False)
class Uploaded:
    """Tensors that are being uploaded. Call `wait()` on a lane before computing with them."""

    tensors: dict[str, Tensor]
    wait: Callable[[], object]


@dataclass(frozen=True, slots=True, eq=False)
class Captured(Generic[Outputs]):
    """A captured run. `replay()` repeats it on the same input memory and writes into `outputs`."""

    replay: Callable[[], object]
    outputs: Outputs


class GraphDevice(Protocol):
    """A GPU. One thread starts all work, except that any thread may call `upload`.

    Nothing waits for the GPU unless it says so.
    """

    device: torch.device

    def on(self, lane: Lane) -> AbstractContextManager[None]:
        """In this block the calling thread starts work on `lane`."""
        ...

    def upload(self, arrays: Arrays, lane: Lane) -> Uploaded:
        """Start an upload of arrays that `lane` will use."""
        ...

    def pinned(self, nbytes: int) -> Tensor:
        """(nbytes,) uint8 in CPU memory from which the device copies.

        It can be dropped while a copy from it is under way.
        """
        ...

    def capture(self, run: Callable[[], Result], lane: Lane) -> Captured[Result]:
        """Run `run` until its setup is done, then capture it for replays on `lane`. Waits."""
        ...

    def to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Start copies to CPU memory. They are complete when `started` of the lane has waited."""
        ...

    def started(self, lane: Lane) -> Callable[[], object]:
        """A function that waits for all work that was started on `lane` so far, in any thread."""
        ...

    def finish(self) -> None:
        """Wait for all lanes."""
        ...

    def release_memory(self) -> None:
        """Return cached memory to the device."""

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        ...


class CudaDevice:
    """A `GraphDevice` with a stream for each lane and one for uploads."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._streams: dict[Lane, Any] = {
            lane: torch.cuda.Stream(device, priority=lane.value) for lane in Lane
        }
        self._uploads = torch.cuda.Stream(device)
        # All graphs of a lane share one memory pool, so their intermediates need only the memory of
        # the largest. Safe because the replays of a lane never overlap, and outputs are copied on
        # the lane before its next replay. Two lanes do overlap, so each has its own pool.
        self._pools: dict[Lane, Any] = {lane: torch.cuda.graph_pool_handle() for lane in Lane}

    @contextmanager
    def on(self, lane: Lane) -> Iterator[None]:
        stream = self._streams[lane]
        with torch.cuda.device(self.device), torch.cuda.stream(stream), exact_products():
            yield

    def upload(self, arrays: Arrays, lane: Lane) -> Uploaded:
        stream = self._streams[lane]
        with torch.cuda.device(self.device), torch.cuda.stream(self._uploads):
            tensors = {
                # The allocator keeps the pinned copy until the transfer is complete.
                name: _pinned(array).to(self.device, non_blocking=True)
                for name, array in arrays.items()
            }
            for tensor in tensors.values():
                tensor.record_stream(stream)
            done = torch.cuda.Event()
            done.record(self._uploads)
        return Uploaded(tensors, lambda: stream.wait_event(done))

    def pinned(self, nbytes: int) -> Tensor:
        # PyTorch's allocator for pinned memory waits for copies before it gives memory out again.
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def capture(self, run: Callable[[], Result], lane: Lane) -> Captured[Result]:
        # In a new thread, because PyTorch remembers for each thread which algorithm cuDNN uses for
        # a shape, and searches for the fastest only if it remembers none. The calling thread has
        # run the shape before, with an algorithm that cuDNN guessed.
        return in_new_thread(lambda: self._capture(run, lane))

    def _capture(self, run: Callable[[], Result], lane: Lane) -> Captured[Result]:
        stream = self._streams[lane]
        with _CAPTURING, torch.cuda.device(self.device), torch.cuda.stream(stream):
            # Libraries allocate workspaces and try algorithms in the first runs, which is not
            # allowed during a capture. The capture uses the algorithms that were found. cuDNN's
            # benchmark mode is off again by then: otherwise another engine could try algorithms,
            # and free their memory, during the capture.
            with measured_algorithms():
                for _ in range(_WARM_UP_RUNS):
                    run()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            try:
                # thread_local: another thread may allocate for an upload during the capture.
                with torch.cuda.graph(
                    graph,
                    pool=self._pools[lane],
                    stream=stream,
                    capture_error_mode="thread_local",
                ):
                    outputs = run()
            except BaseException:
                # The allocator may still count the failed capture as a user of the pool.
                self._pools[lane] = torch.cuda.graph_pool_handle()
                raise
        return Captured(graph.replay, outputs)

    def time_us(self, run: Callable[[], object]) -> float:
        """Median microseconds of `run` as a graph, with its inputs not in the L2 cache.

        In a click, convolutions run between two attentions and evict what these read.
        """
        stream = self._streams[Lane.CLICKS]
        with torch.inference_mode(), self.on(Lane.CLICKS):
            captured = self.capture(run, Lane.CLICKS)
            cache = torch.cuda.get_device_properties(self.device).L2_cache_size
            flush = torch.empty(2 * cache, dtype=torch.int8, device=self.device)
            samples = []
            for _ in range(_TIMED_REPLAYS):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                flush.zero_()
                start.record(stream)
                captured.replay()
                end.record(stream)
                samples.append((start, end))
            stream.synchronize()
        return median(1000 * start.elapsed_time(end) for start, end in samples)

    def to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # PyTorch copies into pinned memory here, so no copy waits for another.
        return {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}

    def started(self, lane: Lane) -> Callable[[], object]:
        done = torch.cuda.Event()
        done.record(self._streams[lane])
        return done.synchronize

    def finish(self) -> None:
        for stream in self._streams.values():
            stream.synchronize()

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
