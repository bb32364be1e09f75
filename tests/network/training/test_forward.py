"""The forward pass of training computes what the network computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ois_client.contract.clicks import EMPTY, NEGATIVE, POSITIVE, SLOTS, SLOTS_PER_SIGN, Prompts
from ois_client.contract.geometry import Geometry
from ois_network.config import FusionOrder, ImageUpdate, NetworkConfig
from ois_network.network import ImageFeatures, OISNetwork
from ois_network.training.forward import click_batch, disk_maps, encode_batch
from support.network_scenes import MICRO, micro

GEOMETRY = Geometry(width=100, height=70, grid_width=5, grid_height=3)
OWNER = torch.tensor([0, 0, 1])


def inputs(
    config: NetworkConfig = MICRO,
) -> tuple[tuple[Tensor, Tensor, Tensor], Prompts[Tensor]]:
    rng = np.random.default_rng(0)
    geometry = replace(GEOMETRY, patch=config.patch, coverage_scale=config.coverage_scale)
    height, width = geometry.network_height, geometry.network_width
    rows, columns = geometry.position_matrices()
    image = torch.from_numpy(rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8))
    points = rng.uniform(-0.4, [width - 0.6, height - 0.6], (3, SLOTS, 2)).astype(np.float32)
    labels = np.full((3, SLOTS), EMPTY, dtype=np.int32)
    labels[:, :3] = POSITIVE
    labels[1:, SLOTS_PER_SIGN : SLOTS_PER_SIGN + 4] = NEGATIVE
    coverage = rng.choice([0, 128, 255], (3, *geometry.coverage_shape)).astype(np.uint8)
    previous = torch.tensor([False, True, True])
    return (image, torch.from_numpy(rows), torch.from_numpy(columns)), Prompts(
        torch.from_numpy(points),
        torch.from_numpy(labels),
        torch.from_numpy(coverage),
        previous,
    )


def reference(network: OISNetwork) -> tuple[Tensor, Tensor]:
    picture, prompts = inputs(network.config)
    features = network.encode(*picture)
    repeated = ImageFeatures(
        [level[OWNER] for level in features.levels],
        features.depth[OWNER],
        None if features.detail is None else features.detail[OWNER],
    )
    return features.depth, network.click(repeated, prompts)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fused_levels": (4,)},
        {"fused_levels": (1, 2, 3, 4)},
        {"order": False},
        {"object": False},
        {"sparse": False},
        {"dense": False},
        {"order_attention": False},
        {"object_attention": False},
        {"mask_empty_slots": True},
        {"depth_encoder": True},
        {"depth_encoder": True, "depth_blocks": 2, "order_attention": False},
        {"patch": 16, "fine_prompts": True, "previous_mask": True, "keep_clicks": True},
        {"output_stride": 2, "aligned_corners": False, "detail_channels": 4},
        {"fusion_order": FusionOrder.OBJECT_FIRST},
        {"image_update": ImageUpdate.EACH_BLOCK},
    ],
    ids=str,
)
@torch.no_grad()
def test_a_training_batch_is_the_network_on_each_object(changes: dict[str, object]) -> None:
    network = micro(**changes)
    picture, prompts = inputs(network.config)
    depth, logits = reference(network)
    encoded = encode_batch(network, *picture)
    found = click_batch(network, encoded, OWNER, prompts)
    assert float((encoded.depth - depth).abs().max() / depth.abs().max()) < 1e-5
    assert float((found - logits).abs().max() / logits.abs().max()) < 1e-5


def test_no_gradient_flows_from_masks_into_depth() -> None:
    network = micro().requires_grad_(True).train()
    picture, prompts = inputs()
    click_batch(network, encode_batch(network, *picture), OWNER, prompts).sum().backward()
    assert all(p.grad is None for p in network.depth_head.parameters())
    assert network.encoder.patch_embed.proj.weight.grad is not None


def test_coarse_is_close_on_smooth_logits_and_has_the_same_shape() -> None:
    network = micro()
    picture, prompts = inputs()
    with torch.no_grad():
        fine = click_batch(network, encode_batch(network, *picture), OWNER, prompts)
        encoded = encode_batch(network, *picture, coarse=True)
        coarse = click_batch(network, encoded, OWNER, prompts, coarse=True)
    assert coarse.shape == fine.shape
    assert not torch.equal(coarse, fine)


def test_disk_maps_are_those_of_the_network() -> None:
    network = micro()
    points, labels, *_ = inputs()[1]
    assert network.dense is not None
    height, width = GEOMETRY.network_height, GEOMETRY.network_width
    expected = network.dense.disk_maps(points, labels, height, width)
    found = disk_maps(points, labels, network.dense.radius, height, width)
    assert torch.equal(found, expected)
    assert torch.equal(
        disk_maps(points, torch.full_like(labels, EMPTY), 5.0, height, width),
        torch.zeros_like(expected),
    )
