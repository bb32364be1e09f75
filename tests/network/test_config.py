"""Switches of the paper's ablations: what they remove, and what old checkpoints mean by them."""

from __future__ import annotations

import pytest

from ois_client.contract.errors import CheckpointError
from ois_network.config import NetworkConfig
from ois_network.parameters import count_parameters, state_shapes
from support.network_scenes import SMALL


def parameters(**changes: object) -> int:
    return count_parameters(SMALL.replace(**changes)).total


@pytest.mark.parametrize("kind", ["order", "object"])
def test_a_removed_attention_takes_its_parameters_with_it(kind: str) -> None:
    """Per block: four projections with biases, a LayerNorm, and sigma for order."""
    blocks, dim = SMALL.fusion_blocks, SMALL.prompt_dim
    attention = 4 * (dim * dim + dim) + 2 * dim + (kind == "order")
    assert parameters() - parameters(**{f"{kind}_attention": False}) == blocks * attention
    removed = (
        state_shapes(SMALL).keys()
        - state_shapes(SMALL.replace(**{f"{kind}_attention": False})).keys()
    )
    parts = {name.split(".")[3] for name in removed}
    assert parts == {f"{kind}_attention", f"{kind}_norm"} | ({"raw_sigma"} & {*parts})
    assert ("raw_sigma" in parts) is (kind == "order")


@pytest.mark.parametrize("switch", ["order", "object"])
def test_without_only_the_bias_every_parameter_stays(switch: str) -> None:
    assert parameters(**{switch: False}) == parameters()


def test_what_a_click_needs_follows_from_the_switches() -> None:
    assert SMALL.uses_order_maps
    assert SMALL.uses_object_masks
    for changes in ({"sparse": False}, {"order": False}, {"order_attention": False}):
        assert not SMALL.replace(**changes).uses_order_maps
    for changes in ({"sparse": False}, {"object": False}, {"object_attention": False}):
        assert not SMALL.replace(**changes).uses_object_masks


def test_configs_of_older_checkpoints_keep_their_meaning() -> None:
    old = SMALL.replace(order=False).to_dict()
    for name in ("order_attention", "object_attention", "depth_blocks"):
        del old[name]
    read = NetworkConfig.from_dict(old)
    assert read == SMALL.replace(order=False)
    assert read.order_attention
    assert read.object_attention
    assert read.depth_blocks == 0


def test_blocks_of_a_depth_encoder_need_a_depth_encoder() -> None:
    with pytest.raises(CheckpointError, match="depth_blocks=2 needs depth_encoder=True"):
        SMALL.replace(depth_blocks=2)
