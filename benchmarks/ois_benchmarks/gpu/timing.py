"""Timing on a CUDA device: captured graphs, events, and a cache that is cold or warm by intent.

A click is replayed from a CUDA graph by the engine, so that is what is timed: launches then cost
what they cost in a click. Not run on a GPU yet.
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
    """What this device reaches: bytes a second of a large copy (read + written), FLOP a second
    of a large product in a dtype. Measured, not taken from a data sheet.
    """

    bytes_per_s: float
    flops_per_s: float

    def floor_s(self, flop: float, byte: float) -> float:
        """Seconds that nothing can beat: the larger of arithmetic and memory traffic."""
        return max(flop / self.flops_per_s, byte / self.bytes_per_s)

    def bound(self, flop: float, byte: float) -> str:
        """What takes longer of the two."""
        at_arithmetic = flop / self.flops_per_s >= byte / self.bytes_per_s
        return "arithmetic" if at_arithmetic else "memory"


@dataclass(frozen=True, slots=True)
class Microseconds:
    """Median of replays, and the 95 % interval of that median."""

    median: float
    low: float
    high: float


def require_gpu() -> torch.device:
    """Raises `InvalidInput` on a machine without a usable CUDA device."""
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else f"; torch {torch.__version__} is built without CUDA"
        raise InvalidInput(
            f"this measurement needs an NVIDIA GPU, and PyTorch sees none{built}. Run it on a "
            "machine with one"
        )
    return torch.device("cuda", torch.cuda.current_device())


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """JSON-ready; what `machine.describe` has not: of this device, which need not be the first."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_mib": round(properties.L2_cache_size / 2**20, 1),
        "cuda": torch.version.cuda,
    }


class Replays(Protocol):
    """A captured graph: `torch.cuda.CUDAGraph`, or the torch engine's."""

    @property
    def replay(self) -> Callable[[], object]: ...


class GraphTimer:
    """Times functions on one device; holds the buffer that empties its L2 cache."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        size = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(4 * size, dtype=torch.int8, device=device)

    def capture(self, run: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        """`run` as a graph, and what its replays write to.

        It is warmed up on a side stream first, as capturing demands.
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
        """cold: the L2 cache holds none of the inputs; else whatever the last replay left."""
        return self.time_graph(self.capture(run)[0], cold=cold)

    def time_graph(self, graph: Replays, *, cold: bool) -> Microseconds:
        """As `time`, of a captured graph."""
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
        """Of a copy of 1 GiB and a product of two 8192 x 8192 matrices."""
        source = torch.empty(2**30, dtype=torch.int8, device=self.device).random_(-128, 127)
        target = torch.empty_like(source)
        copy = self.time(lambda: target.copy_(source), cold=False)
        side = 8192
        left, right = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
        product = self.time(lambda: left @ right, cold=False)
        return Rates(2 * 2**30 / copy.median * 1e6, 2 * side**3 / product.median * 1e6)
