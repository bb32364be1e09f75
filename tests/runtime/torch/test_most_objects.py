"""How many objects fit into one run on a GPU, where PyTorch's bilinear resize has 32-bit indices.

The network runs on the device `meta`, which computes shapes only, at the sizes that people use.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ois_network.config import NetworkConfig, preset
from ois_network.network import OISNetwork
from ois_network.split import ClickDecoder, ImageEncoder
from ois_runtime.torch.engine import most_objects

INT_MAX = 2**31 - 1
VITB = preset("vitb")
CONFIGS = {
    "vitb": VITB,
    "vitl": preset("vitl"),
    "fine": VITB.replace(fine_prompts=True, patch=16, longest=1024),
    "half": VITB.replace(output_stride=2),
}


class Sizes(TorchFunctionMode):
    """Elements of the largest result of a resize, and of any function."""

    def __init__(self) -> None:
        self.resized = self.largest = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.largest = max(self.largest, made.numel())
            if getattr(func, "__name__", "") == "interpolate":
                self.resized = max(self.resized, made.numel())
        return made


def sizes(config: NetworkConfig, grid: tuple[int, int], objects: int) -> Sizes:
    """What a click on `objects` objects makes."""
    rows, columns = grid
    with torch.device("meta"), torch.inference_mode():
        network = OISNetwork(config)
        tables = (torch.empty(side, config.position_table) for side in grid)
        image = torch.empty(rows * config.patch, columns * config.patch, 3, dtype=torch.uint8)
        state = ImageEncoder(network)(image, *tables)
        scale = config.coverage_scale
        clicks = (
            torch.empty(objects, 48, 2),
            torch.empty(objects, 48, dtype=torch.int32),
            torch.empty(objects, rows * scale, columns * scale, dtype=torch.uint8),
            torch.empty(objects, dtype=torch.bool),
        )
        with Sizes() as seen:
            ClickDecoder(network)(state, *clicks)
    return seen


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_stays_below_32_bits_and_one_object_more_would_not(name: str) -> None:
    config = CONFIGS[name]
    side = config.longest // config.patch
    for grid in ((side, side), (side * 9 // 16, side)):
        most = most_objects(config, grid)
        seen = sizes(config, grid, most)
        assert seen.resized <= INT_MAX
        assert seen.largest <= INT_MAX
        assert seen.resized * (most + 1) / most > INT_MAX


def test_the_known_limits() -> None:
    assert most_objects(VITB, (73, 73)) == 32
    assert most_objects(preset("vitl"), (73, 73)) == 16
    assert most_objects(VITB, (41, 73)) == 57
