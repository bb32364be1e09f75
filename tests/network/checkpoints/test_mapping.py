"""A mapping file converts foreign checkpoints into ours; all errors are reported at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ois_client.contract.errors import CheckpointError
from ois_network.checkpoints.checkpoint import load_checkpoint
from ois_network.checkpoints.mapping import apply_mapping, convert, read_mapping
from ois_network.network import OISNetwork
from support.network_scenes import SMALL, random_network

#: The foreign network has fused cross-attentions, a `backbone`, and a convolution as projection.
TOML = r"""
drop = ['^criterion\.', 'num_batches_tracked$']

[prefix]
"backbone." = "encoder."
"backbone.last_norm." = "encoder.norm."

[regex]
'blk\.(\d+)\.(order|object)\.in_proj_(weight|bias)' = [
  'fusion.blocks.\1.\2_attention.query.\3',
  'fusion.blocks.\1.\2_attention.key.\3',
  'fusion.blocks.\1.\2_attention.value.\3',
]
'blk\.(\d+)\.(.*)' = 'fusion.blocks.\1.\2'
"""


def foreign_names(network: OISNetwork) -> dict[str, Tensor]:
    """The network's tensors as another project might have named them."""
    state = dict(network.state_dict())
    foreign = {"criterion.weight": torch.ones(3)}
    for block in range(network.config.fusion_blocks):
        for kind in ("order", "object"):
            for what in ("weight", "bias"):
                path = f"fusion.blocks.{block}.{kind}_attention"
                fused = [state.pop(f"{path}.{q}.{what}") for q in ("query", "key", "value")]
                foreign[f"blk.{block}.{kind}.in_proj_{what}"] = torch.cat(fused)
    for name, tensor in state.items():
        name = name.replace("fusion.blocks.", "blk.").replace(
            "encoder.norm.", "backbone.last_norm."
        )
        foreign[name.replace("encoder.", "backbone.")] = tensor
    foreign["project.weight"] = foreign["project.weight"][:, :, None, None]
    return foreign


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "map.toml"
    path.write_text(TOML)
    return path


def test_a_foreign_checkpoint_becomes_ours(tmp_path: Path, rules: Path) -> None:
    network = random_network()
    torch.save({"state_dict": foreign_names(network), "epoch": 3}, tmp_path / "foreign.pth")
    report = convert(tmp_path / "foreign.pth", rules, tmp_path / "out.safetensors", config=SMALL)
    assert report.dropped == ["criterion.weight"]
    assert report.reshaped == ["project.weight"]
    loaded = load_checkpoint(tmp_path / "out.safetensors")
    assert loaded.trained
    assert loaded.metadata["training"]["converted_from"] == "foreign.pth"
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name


def test_a_json_mapping_works_and_can_contain_the_config(tmp_path: Path, rules: Path) -> None:
    network = random_network()
    torch.save(foreign_names(network), tmp_path / "foreign.pth")
    toml = read_mapping(rules)
    data = {
        "config": SMALL.to_dict(),
        "drop": [pattern.pattern for pattern in toml.drop],
        "prefix": toml.prefix,
        "regex": {pattern.pattern: list(targets) for pattern, targets in toml.regex},
    }
    path = tmp_path / "map.json"
    path.write_text(json.dumps(data))
    convert(tmp_path / "foreign.pth", path, tmp_path / "out.safetensors")
    assert load_checkpoint(tmp_path / "out.safetensors").config == SMALL


def test_all_errors_are_reported_at_once(tmp_path: Path, rules: Path) -> None:
    foreign = foreign_names(random_network())
    foreign["teacher.w"] = torch.zeros(1)
    foreign["backbone.extra"] = torch.zeros(1)
    foreign["encoder.cls_token"] = foreign["backbone.cls_token"]
    foreign["project.bias"] = torch.zeros(7)
    foreign["blk.0.order.in_proj_bias"] = torch.zeros(7)
    del foreign["position.gaussian"]
    torch.save(foreign, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "foreign.pth", rules, tmp_path / "out.safetensors", config=SMALL)
    message = str(caught.value)
    for line in (
        "teacher.w",
        "backbone.extra (as encoder.extra)",
        "position.gaussian",
        "project.bias got (7,) expected (32,)",
        "blk.0.order.in_proj_bias (7,) cannot be split into 3 parts",
        "encoder.cls_token from backbone.cls_token and encoder.cls_token",
    ):
        assert f"  {line}\n" in message + "\n", line
    assert not (tmp_path / "out.safetensors").exists()


def test_names_that_are_ours_need_no_rule(tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text("")
    network = random_network()
    mapping = read_mapping(tmp_path / "map.toml")
    renamed, report = apply_mapping(network.state_dict(), mapping, SMALL)
    assert report.complete
    assert renamed.keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[prefix", "is not valid"),
        ("rename = 1", r"has \['rename'\]; expected some of"),
        ("preset = 'huge'", "got the network 'huge'"),
        ("preset = 'vitb'\n[config]\nheads = 3", "both preset and config"),
        ("[regex]\n'(' = 'x'", "is not a regular expression"),
        ("[prefix]\na = 3", "got 3, expected a string"),
        ("prefix = 'a'", "wrong entry"),
        ("drop = [1]", "got 1, expected a string"),
    ],
)
def test_a_wrong_mapping_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "map.toml").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_mapping(tmp_path / "map.toml")


def test_a_missing_mapping_file_and_a_missing_network(tmp_path: Path, rules: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read the mapping"):
        read_mapping(tmp_path / "none.toml")
    with pytest.raises(CheckpointError, match="names no network"):
        convert(tmp_path / "foreign.pth", rules, tmp_path / "out.safetensors")


def test_a_rule_with_an_unknown_group_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(r"""regex = {'a\.(.*)' = 'b.\2'}""")
    with pytest.raises(CheckpointError, match=r"the mapping's rule for a\.c is wrong"):
        apply_mapping({"a.c": torch.zeros(1)}, read_mapping(tmp_path / "map.toml"), SMALL)
