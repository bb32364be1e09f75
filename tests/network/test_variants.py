"""Switches of a network: their names, wrong values, and weights that two networks share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ois_client.contract.errors import InvalidInput
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_network.checkpoints.depth_anything import assemble
from ois_network.config import PRESETS, FusionOrder, NetworkConfig
from ois_network.initialise import altered
from ois_network.parameters import count_parameters
from ois_network.variants import (
    REMOVABLE,
    SWITCHES,
    changed,
    differences,
    parse_changes,
    removed,
)
from support.network_scenes import MICRO, micro, random_network
from support.public_weights import SLIM, write_public


def test_without_order_and_object_are_the_papers() -> None:
    """Table 4 removes the attention modules; what removes their biases only has another name."""
    full = count_parameters(PRESETS["tiny"]).total
    for part, left in (("order", 5_204_000), ("object", 5_204_000), ("order-maps", full)):
        config = changed(PRESETS["tiny"], removed([part]))
        assert count_parameters(config).total == pytest.approx(left, abs=1000), part


def test_every_part_that_can_be_left_out_is_a_switch() -> None:
    assert set(REMOVABLE.values()) <= set(SWITCHES)
    assert set(SWITCHES) <= {*NetworkConfig().to_dict()}
    assert removed(["order,sparse", " dense "]) == {
        "order_attention": False, "sparse": False, "dense": False
    }  # fmt: skip


def test_changes_are_read_and_described() -> None:
    changes = parse_changes(
        ["depth_encoder=true", "depth_blocks = 4", "fused_levels=3,4", "fusion_order=object_first"]
    )
    config = changed(PRESETS["tiny"], changes)
    assert (config.depth_encoder, config.depth_blocks) == (True, 4)
    assert config.fused_levels == (3, 4)
    assert config.fusion_order is FusionOrder.OBJECT_FIRST
    assert differences(config) == {
        "depth_encoder": True, "depth_blocks": 4, "fusion_order": "object_first"
    }  # fmt: skip
    assert differences(PRESETS["photo"]) == {}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("order", "expected FIELD=VALUE"),
        ("order=1", "expected order=true or order=false"),
        ("patch=7", "would change encoder or heads"),
        ("colour=red", "does not exist"),
        ("fused_levels=five", "'fused_levels' is"),
        ("fusion_order=none", "'none' is not a valid FusionOrder"),
    ],
)
def test_a_wrong_change_says_what_is_wrong(setting: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        changed(PRESETS["tiny"], parse_changes([setting]))


def test_an_altered_network_has_the_weights_that_both_have() -> None:
    network = micro()
    made = altered(network, {"order_attention": False, "depth_encoder": True})
    assert made.network.config == MICRO.replace(order_attention=False, depth_encoder=True)
    given, own = network.state_dict(), made.network.state_dict()
    assert made.unused
    assert all(".order_" in name or name.endswith("raw_sigma") for name in made.unused)
    assert made.new
    assert all(name.startswith("depth_encoder.") for name in made.new)
    assert own.keys() == (given.keys() - set(made.unused)) | set(made.new)
    assert all(own[name].equal(given[name]) for name in own if name in given)
    assert made.summary == (
        f"{len(made.unused)} tensors left out, {len(made.new)} tensors untrained"
    )


def test_assembled_parts_can_be_changed(tmp_path: Path) -> None:
    network = random_network(SLIM)
    public, parts = write_public(tmp_path / "public.pth", network), tmp_path / "parts.safetensors"
    notes = {"steps": 5}
    save_checkpoint(network, parts, trained=True, notes=notes, parts_only=True)
    out = tmp_path / "out.safetensors"
    assemble(public, parts, out, changes={"order_attention": False})
    loaded = load_checkpoint(out)
    assert loaded.trained
    assert not loaded.config.order_attention
    assert loaded.metadata["training"] == {
        "steps": 5, "changed_after_training": {"order_attention": False, "untrained": []}
    }  # fmt: skip
    # A part that nothing has trained: the whole does not count as trained.
    assemble(public, parts, out, changes={"depth_encoder": True})
    assert not load_checkpoint(out).trained
