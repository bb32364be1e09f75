"""A fake GPU in the CPU's memory, and inputs for the engine that captures graphs."""

from __future__ import annotations

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
from ois_runtime.torch.cuda import Captured, Uploaded
from support.network_scenes import MICRO

WIDE = Geometry.fit(300, 190, longest=MICRO.longest)


TALL = Geometry.fit(100, 160, longest=MICRO.longest)


class HostDevice:
    """A `GraphDevice` in the CPU's memory.

    failures: how many of the next calls run out of memory. says, text: the error they raise.
    """

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.failures = 0
        self.says: type[RuntimeError] = torch.OutOfMemoryError
        self.text = "out of memory"
        self.released = 0
        self.captures = 0

    @contextmanager
    def computing(self) -> Iterator[None]:
        yield

    def upload(self, arrays: Mapping[str, Any]) -> Uploaded:
        self._take_room()
        return Uploaded({name: torch.tensor(a) for name, a in arrays.items()}, lambda: None)

    def pinned(self, nbytes: int) -> Tensor:
        return torch.zeros(nbytes, dtype=torch.uint8)

    def capture(self, run: Callable[[], Any]) -> Captured[Any]:
        self._take_room()
        self.captures += 1
        outputs = run()

        def replay() -> None:
            tree_map(lambda old, new: old.copy_(new), outputs, run())

        return Captured(replay, outputs)

    def to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        self._take_room()
        return {name: tensor.clone().numpy() for name, tensor in tensors.items()}

    def release_memory(self) -> None:
        self.released += 1

    def memory(self) -> tuple[int, int]:
        return 5 * 2**20, 2**30

    def _take_room(self) -> None:
        if self.failures:
            self.failures -= 1
            raise self.says(self.text)


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
