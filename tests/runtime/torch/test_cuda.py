"""Captures take turns, of which PyTorch allows one at a time, and use the fastest algorithms.

No GPU is needed: CUDA's calls are replaced by functions that refuse what the real ones refuse, and
that remember algorithms as PyTorch does. `tests/gpu/test_engine.py` tests with the real ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock, local
from typing import Any

import pytest
import torch

from ois_runtime.torch.cuda import CudaDevice, Lane
from ois_runtime.torch.gpu_thread import GpuThread

PAUSE_S = 0.005


class Cuda:
    """Replaces the functions of `torch.cuda` that `CudaDevice` uses, for any number of GPUs."""

    def __init__(self) -> None:
        self._underway = Lock()
        self._algorithms = local()
        self.measured: list[bool] = []
        self.pools: list[tuple[int, int]] = []
        self.streams: list[int] = []

    class Stream:
        def __init__(self, device: torch.device, priority: int = 0) -> None:
            self.device, self.priority = device, priority

        def synchronize(self) -> None:
            time.sleep(PAUSE_S)

    class CUDAGraph:
        def replay(self) -> None:
            raise NotImplementedError

    def graph_pool_handle(self) -> tuple[int, int]:
        self.pools.append((0, len(self.pools)))
        return self.pools[-1]

    @contextmanager
    def device(self, _device: torch.device) -> Iterator[None]:
        yield

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.streams.append(stream.priority)
        yield

    @contextmanager
    def graph(self, _graph: CUDAGraph, **options: Any) -> Iterator[None]:
        assert options["pool"] in self.pools
        assert options["stream"].priority == self.streams[-1]
        if not self._underway.acquire(blocking=False):
            raise RuntimeError("another capture is underway")
        try:
            time.sleep(PAUSE_S)
            yield
        finally:
            self._underway.release()

    def empty_cache(self) -> None:
        if self._underway.locked():
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def run(self) -> bool:
        """A network with one shape of convolution. Returns whether a graph is being captured.

        As PyTorch does, a thread remembers the first algorithm that it used for a shape, and looks
        for a faster one only if it remembers none.
        """
        assert torch.is_inference_mode_enabled()
        if not hasattr(self._algorithms, "fastest"):
            self._algorithms.fastest = bool(torch.backends.cudnn.benchmark)
            if self._algorithms.fastest:
                self.empty_cache()
        self.measured.append(self._algorithms.fastest)
        return self._underway.locked()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    for name in (
        *("Stream", "CUDAGraph", "graph_pool_handle", "graph", "empty_cache", "device", "stream"),
    ):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    return made


def test_a_graph_has_the_fastest_algorithms_though_the_shape_ran_before(cuda: Cuda) -> None:
    device = CudaDevice(torch.device("cuda", 0))
    thread = GpuThread()

    def plain_then_capture() -> bool:
        with device.on(Lane.CLICKS):
            cuda.run()
            return device.capture(cuda.run, Lane.CLICKS).outputs

    assert thread.call(plain_then_capture, Lane.CLICKS)
    assert cuda.measured == [False, True, True, True, True]  # three warm-ups and the capture
    assert not torch.backends.cudnn.benchmark


def test_each_lane_has_its_own_memory_and_clicks_come_first(cuda: Cuda) -> None:
    device = CudaDevice(torch.device("cuda", 0))
    for lane in Lane:
        device.capture(cuda.run, lane)
    assert len(cuda.pools) == 2
    assert cuda.streams == [-1, 0]  # the lower priority comes first


def test_after_a_failed_capture_its_pool_of_memory_is_not_used_again(cuda: Cuda) -> None:
    device = CudaDevice(torch.device("cuda", 0))

    def fails() -> None:
        if cuda.run():
            raise RuntimeError("operation not permitted when stream is capturing")

    before = dict(device._pools)
    with pytest.raises(RuntimeError, match="not permitted"):
        device.capture(fails, Lane.CLICKS)
    assert device._pools[Lane.CLICKS] != before[Lane.CLICKS]
    assert device._pools[Lane.ENCODES] == before[Lane.ENCODES]
    assert device.capture(cuda.run, Lane.CLICKS).outputs


def test_engines_capture_and_give_memory_back_one_after_another(cuda: Cuda) -> None:
    devices = [CudaDevice(torch.device("cuda", number)) for number in (0, 0, 1)]
    together = Barrier(len(devices) + 1)

    def captures(device: CudaDevice) -> list[bool]:
        together.wait()
        return [device.capture(cuda.run, Lane.CLICKS).outputs for _ in range(5)]

    def releases(device: CudaDevice) -> None:
        together.wait()
        for _ in range(100):
            device.release_memory()
            time.sleep(PAUSE_S / 10)

    with ThreadPoolExecutor(len(devices) + 1) as pool:
        released = pool.submit(releases, devices[0])
        assert list(pool.map(captures, devices)) == [[True] * 5] * 3
        released.result()
    assert not torch.backends.cudnn.benchmark


def test_a_capture_that_fails_leaves_the_next_its_turn(cuda: Cuda) -> None:
    device = CudaDevice(torch.device("cuda", 0))

    def fails() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        device.capture(fails, Lane.CLICKS)
    device.release_memory()
    assert CudaDevice(torch.device("cuda", 1)).capture(cuda.run, Lane.CLICKS).outputs
