"""Small networks, random images and random prompts for the network's tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ois_client.contract.clicks import SLOTS, SLOTS_PER_SIGN, Prompts
from ois_client.contract.geometry import Geometry
from ois_network.config import NetworkConfig
from ois_network.initialise import randomise
from ois_network.network import OISNetwork

# These networks are so small that more threads only wait; pytest-xdist adds its own processes.
torch.set_num_threads(1)

#: All dimensions differ, so that a swapped axis is an error.
SMALL = NetworkConfig(
    name="small",
    longest=126,
    embed_dim=48,
    depth=5,
    heads=3,
    out_layers=(0, 2, 3, 4),
    head_features=16,
    head_channels=(12, 20, 28, 36),
    prompt_dim=32,
    fusion_heads=4,
    fusion_blocks=2,
    fusion_ffn=40,
    position_table=7,
)

#: Small enough to export in seconds, with every branch in use.
MICRO = SMALL.replace(name="micro", longest=112, position_table=37)


def random_network(config: NetworkConfig = SMALL, seed: int = 0) -> OISNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = OISNetwork(config)
    return randomise(network, seed).requires_grad_(False)


def micro(**changes: object) -> OISNetwork:
    """A network with random weights, none of them zero, so that every branch has an effect."""
    return random_network(MICRO.replace(**changes), seed=1)


def random_image(config: NetworkConfig, rows: int, columns: int, seed: int = 0) -> Tensor:
    """(h, w, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    size = (rows * config.patch, columns * config.patch, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def position_matrices(
    config: NetworkConfig, rows: int, columns: int, offset: float = 0.1
) -> tuple[Tensor, Tensor]:
    width, height = columns * config.patch, rows * config.patch
    geometry = Geometry(width, height, columns, rows, config.patch)
    matrices = geometry.position_matrices(config.position_table, offset)
    return torch.from_numpy(matrices[0]), torch.from_numpy(matrices[1])


def random_prompts(
    rows: int,
    columns: int,
    counts: list[tuple[int, int]],
    *,
    previous: list[bool],
    seed: int = 0,
    config: NetworkConfig = SMALL,
) -> Prompts[Tensor]:
    """Random clicks and coverage for a network of this config.

    counts: (positive, negative) clicks of each object. previous: which objects have a previous
    mask. The second to fifth clicks are in the image's corners, and the next two overlap. Some
    patches are covered fully, some partly, some not at all.
    """
    rng = np.random.default_rng(seed)
    n, width, height = len(counts), columns * config.patch, rows * config.patch
    points = np.zeros((n, SLOTS, 2), np.float32)
    labels = np.full((n, SLOTS), -1, np.int32)
    corners = np.array([(0, 0), (width - 1, height - 1), (0, height - 1), (width - 1, 0)])
    for number, (positive, negative) in enumerate(counts):
        for first, count, label in ((0, positive, 1), (SLOTS_PER_SIGN, negative, 0)):
            clicks = rng.uniform((0, 0), (width - 1, height - 1), (count, 2))
            clicks[1:5] = corners[: max(0, min(4, count - 1))]
            clicks[5:7] = clicks[:1] + 3.0  # twice the same, overlapping a disk
            clicks = clicks.clip(0, (width - 1, height - 1))
            points[number, first : first + count] = clicks
            labels[number, first : first + count] = label
    coverage = rng.choice([0, 0, 0, 7, 128, 254, 255, 255], (n, rows, columns)).astype(np.uint8)
    if config.coverage_scale > 1:  # patches that are full or empty, and patches of any cells
        size = config.coverage_scale
        cells = rng.choice([0, 3, 251, 255], (n, rows * size, columns * size))
        coverage = coverage.repeat(size, 1).repeat(size, 2)
        coverage = np.where((coverage > 0) & (coverage < 255), cells, coverage).astype(np.uint8)
    return Prompts(
        torch.from_numpy(points),
        torch.from_numpy(labels),
        torch.from_numpy(coverage),
        torch.tensor(previous),
    )


def objects(prompts: Prompts[Tensor], *numbers: int) -> Prompts[Tensor]:
    """The prompts of some of the objects, in this order."""
    return prompts.map(lambda tensor: tensor[list(numbers)])


def relative_error(got: Tensor, expected: Tensor) -> float:
    """The largest difference, divided by the largest expected value."""
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())
