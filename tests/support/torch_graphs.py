"""A fake GPU in the CPU's memory, and inputs for the engine that captures graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ois_client.contract.clicks import Click, Prompts, fill_slots
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.pair import HostPrompts
from ois_runtime.torch.cuda import Captured, Lane, Uploaded
from support.network_scenes import MICRO

WIDE = Geometry.fit(300, 190, longest=MICRO.longest)


TALL = Geometry.fit(100, 160, longest=MICRO.longest)


class HostDevice:
    """A `GraphDevice` in the CPU's memory.

    Copies to the host are incomplete (zeros) until somebody waits for their lane, as on a GPU.

    failures: how many of the next calls run out of memory. says, text: the error they raise.
    capture_fails: the text of the error of every capture.
    """

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.failures = 0
        self.says: type[RuntimeError] = torch.OutOfMemoryError
        self.text = "out of memory"
        self.capture_fails = ""
        self.released = 0
        self.captures = 0
        self.finished = 0
        self.lanes: list[Lane] = []
        self._lane: Lane | None = None
        self._copies: list[tuple[Tensor, Tensor]] = []

    @contextmanager
    def on(self, lane: Lane) -> Iterator[None]:
        assert threading.current_thread().name == "ois-gpu"
        assert self._lane is None
        self._lane = lane
        self.lanes.append(lane)
        try:
            yield
        finally:
            self._lane = None

    def upload(self, arrays: Mapping[str, Any], lane: Lane) -> Uploaded:
        self._take_room()

        def wait() -> None:
            assert self._lane is lane

        return Uploaded({name: torch.tensor(a) for name, a in arrays.items()}, wait)

    def pinned(self, nbytes: int) -> Tensor:
        return torch.full((nbytes,), 77, dtype=torch.uint8)  # whatever was there before

    def capture(self, run: Callable[[], Any], lane: Lane) -> Captured[Any]:
        self._take_room()
        assert self._lane is lane
        if self.capture_fails:
            raise RuntimeError(self.capture_fails)
        self.captures += 1
        outputs = run()

        def replay() -> None:
            assert self._lane in (lane, None)  # None: a measurement, with nothing else under way
            tree_map(lambda old, new: old.copy_(new), outputs, run())

        return Captured(replay, outputs)

    def to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._take_room()
        copies = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        self._copies += [(copies[name], tensor.clone()) for name, tensor in tensors.items()]
        return copies

    def started(self, lane: Lane) -> Callable[[], None]:
        assert self._lane is lane
        copies, self._copies = self._copies, []

        def wait() -> None:
            with torch.inference_mode():
                for target, value in copies:
                    target.copy_(value)

        return wait

    def finish(self) -> None:
        self.finished += 1

    def release_memory(self) -> None:
        self.released += 1

    def memory(self) -> tuple[int, int]:
        return 5 * 2**20, 2**30

    def _take_room(self) -> None:
        if self.failures:
            self.failures -= 1
            raise self.says(self.text)


def size_of(geometry: Geometry) -> tuple[int, int]:
    return geometry.network_height, geometry.network_width


def image(geometry: Geometry, seed: int) -> dict[str, np.ndarray]:
    rows, columns = geometry.position_matrices(MICRO.position_table)
    size = (geometry.network_height, geometry.network_width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return {"image": pixels, "pos_rows": rows, "pos_cols": columns}


def prompts(geometry: Geometry, count: int, seed: int = 0) -> HostPrompts:
    rng = np.random.default_rng(seed)
    objects = [
        [Click(*(rng.random(2) * (geometry.width - 1, geometry.height - 1)), n < 2)]
        for n in range(count)
    ]
    points, labels = fill_slots(objects, geometry)
    grid = (count, geometry.grid_height, geometry.grid_width)
    coverage = rng.integers(0, 256, grid, dtype=np.uint8)
    return Prompts(points, labels, coverage, rng.random(count) < 0.5)
