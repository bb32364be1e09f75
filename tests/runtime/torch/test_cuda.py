"""Engines of one process take turns for captures, of which PyTorch allows one at a time.

No GPU is needed: CUDA's calls are replaced by functions that refuse what the real ones refuse.
`tests/gpu/test_engine.py` tests with the real ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock
from typing import Any

import pytest
import torch

from ois_runtime.torch.cuda import CudaDevice

PAUSE_S = 0.005


class Cuda:
    """Replaces the functions of `torch.cuda` that `CudaDevice` uses, for any number of GPUs."""

    def __init__(self) -> None:
        self._underway = Lock()
        self.measured: list[bool] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def synchronize(self) -> None:
            time.sleep(PAUSE_S)

    class CUDAGraph:
        def replay(self) -> None:
            raise NotImplementedError

    def graph_pool_handle(self) -> tuple[int, int]:
        return (0, 1)

    @contextmanager
    def graph(self, _graph: CUDAGraph, **_options: Any) -> Iterator[None]:
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
        """A network with a new convolution shape. Returns whether a graph is being captured."""
        measures = bool(torch.backends.cudnn.benchmark)
        captures = self._underway.locked()
        self.measured.append(measures)
        if measures:
            self.empty_cache()
        return captures


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    for name in ("Stream", "CUDAGraph", "graph_pool_handle", "graph", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    return made


def test_a_graph_is_captured_after_warm_ups_that_measure(cuda: Cuda) -> None:
    captured = CudaDevice(torch.device("cuda", 0)).capture(cuda.run)
    assert captured.outputs
    assert cuda.measured == [True, True, True, False]


def test_engines_capture_and_give_memory_back_one_after_another(cuda: Cuda) -> None:
    devices = [CudaDevice(torch.device("cuda", number)) for number in (0, 0, 1)]
    together = Barrier(len(devices) + 1)

    def captures(device: CudaDevice) -> list[bool]:
        together.wait()
        return [device.capture(cuda.run).outputs for _ in range(5)]

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
        device.capture(fails)
    device.release_memory()
    assert CudaDevice(torch.device("cuda", 1)).capture(cuda.run).outputs
