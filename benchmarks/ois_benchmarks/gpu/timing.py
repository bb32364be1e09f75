"""Timing on a CUDA device: CUDA graphs, CUDA events, and a defined state of the L2 cache.

The engine replays clicks from CUDA graphs, so replays are timed: a launch then costs what it costs
in a click. *Not run on a GPU yet.*
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from ois_benchmarks.timing import median_interval
from ois_client.contract.errors import InvalidInput

_WARMUP = 3
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates measured on this device, not taken from a data sheet.

    bytes_per_s: of a large copy, read + written. flops_per_s: of a large product in one dtype.
    """

    bytes_per_s: float
    flops_per_s: float

    def floor_s(self, flops: float, bytes_moved: float) -> float:
        """The least possible seconds: the larger of arithmetic and memory traffic."""
        return max(flops / self.flops_per_s, bytes_moved / self.bytes_per_s)

    def bound(self, flops: float, bytes_moved: float) -> str:
        """Which of the two takes longer: "arithmetic" or "memory"."""
        by_arithmetic = flops / self.flops_per_s >= bytes_moved / self.bytes_per_s
        return "arithmetic" if by_arithmetic else "memory"


@dataclass(frozen=True, slots=True)
class Microseconds:
    """The median of replays, and its 95 % interval."""

    median: float
    low: float
    high: float


def require_gpu() -> torch.device:
    """The current CUDA device. Raises `InvalidInput` if PyTorch cannot use one."""
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else f"; torch {torch.__version__} is built without CUDA"
        raise InvalidInput(
            f"this measurement needs an NVIDIA GPU, and PyTorch finds none{built}. Run it on a "
            "machine with a GPU"
        )
    return torch.device("cuda", torch.cuda.current_device())


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """This device, which need not be the first; JSON-ready, for the `machine` of a result."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_mib": round(properties.L2_cache_size / 2**20, 1),
        "cuda": torch.version.cuda,
    }


class Replays(Protocol):
    """A captured graph: `torch.cuda.CUDAGraph`, or that of the torch engine."""

    @property
    def replay(self) -> Callable[[], object]: ...


class GraphTimer:
    """Times functions on one device. Holds a buffer that evicts everything from its L2 cache."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        size = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(4 * size, dtype=torch.int8, device=device)

    def capture(self, run: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        """Capture `run`. Returns the graph, and the result that its replays overwrite.

        `run` is warmed up on a side stream first, which capturing requires.
        """
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARMUP):
                run()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()
        return graph, result

    def time(self, run: Callable[[], object], *, cold: bool) -> Microseconds:
        """Capture `run` and time its replays.

        cold: evict the inputs from the L2 cache before each replay.
        """
        return self.time_graph(self.capture(run)[0], cold=cold)

    def time_graph(self, graph: Replays, *, cold: bool) -> Microseconds:
        """Time the replays of a captured graph. cold: as for `time`."""
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(self.repeats)
        ]
        for _ in range(_WARMUP):
            graph.replay()
        for start, end in events:
            if cold:
                self._flush.zero_()
            start.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize(self.device)
        samples = [1000 * start.elapsed_time(end) for start, end in events]
        low, high = median_interval(samples)
        return Microseconds(float(np.median(samples)), low, high)

    def rates(self, dtype: torch.dtype) -> Rates:
        """Measured by a copy of 1 GiB and a product of two 8192 x 8192 matrices of `dtype`."""
        source = torch.empty(2**30, dtype=torch.int8, device=self.device).random_(-128, 127)
        target = torch.empty_like(source)
        copy = self.time(lambda: target.copy_(source), cold=False)
        side = 8192
        left, right = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
        product = self.time(lambda: left @ right, cold=False)
        return Rates(2 * 2**30 / copy.median * 1e6, 2 * side**3 / product.median * 1e6)
