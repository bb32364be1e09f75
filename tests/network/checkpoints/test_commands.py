"""`ois checkpoint` and `ois bench flops` in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ois_cli.main import main
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_network.config import FusionOrder
from support.network_scenes import SMALL, random_network
from support.public_weights import SLIM, write_public


def as_json(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, Any]]:
    code = main([str(arg) for arg in args] + ["--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, document


def test_inspect_shows_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.safetensors"
    sha256 = save_checkpoint(random_network(), path, trained=False)
    code, shown = as_json(capsys, "checkpoint", "inspect", path)
    assert code == 0
    assert (shown["sha256"], shown["trained"]) == (sha256, False)
    assert shown["config"] == SMALL.to_dict()
    assert sum(shown["parameters"]["parts"].values()) == shown["parameters"]["total"]
    assert main(["checkpoint", "inspect", str(path)]) == 0
    assert sha256 in capsys.readouterr().out.replace("\n", "")


def test_inspect_counts_a_network_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = as_json(capsys, "checkpoint", "inspect", "--network", "vitb")
    assert code == 0
    assert shown["parameters"]["parts"]["mask head"] == 10_890_305
    assert main(["checkpoint", "inspect", "--network", "vitb"]) == 0
    assert "paper 107.88" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["checkpoint", "inspect"], "INVALID_INPUT"),
        (["checkpoint", "inspect", "--network", "huge"], "CHECKPOINT_ERROR"),
        (["checkpoint", "inspect", "none.safetensors"], "CHECKPOINT_ERROR"),
        (["checkpoint", "assemble", "none.pth", "-o", "x.safetensors"], "CHECKPOINT_ERROR"),
        (["checkpoint", "assemble", "a", "-o", "b", "--dtype", "int8"], "INVALID_INPUT"),
        (["checkpoint", "assemble", "a", "-o", "b", "--without", "odrer"], "INVALID_INPUT"),
        (["bench", "flops", "--size", "big"], "INVALID_INPUT"),
        (["bench", "flops", "--size", "1000x1000"], "INVALID_INPUT"),
        (["bench", "flops", "--network", "huge"], "CHECKPOINT_ERROR"),
    ],
)
def test_wrong_arguments_are_errors(
    args: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, shown = as_json(capsys, *args)
    assert status == 2
    assert shown["error"]["code"] == code


def test_assemble_and_convert_write_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = random_network(SLIM)
    public = write_public(tmp_path / "public.pth", network)
    parts, whole = tmp_path / "parts.safetensors", tmp_path / "whole.safetensors"
    save_checkpoint(network, parts, trained=True, parts_only=True)
    code, shown = as_json(capsys, "checkpoint", "assemble", public, "--parts", parts, "-o", whole)
    assert code == 0
    assert load_checkpoint(whole).sha256 == shown["sha256"]

    other = tmp_path / "other.safetensors"
    command = ["checkpoint", "assemble", public, "-o", other, "--without", "sparse"]
    assert as_json(capsys, *command)[0] == 0
    assert not load_checkpoint(other).config.sparse
    assert main(["checkpoint", "inspect", str(other)]) == 0
    assert "sparse=False" in capsys.readouterr().out

    torch.save({f"net.{k}": v for k, v in network.state_dict().items()}, tmp_path / "foreign.pth")
    rules = {"config": SLIM.to_dict(), "prefix": {"net.": ""}}
    (tmp_path / "map.json").write_text(json.dumps(rules))
    out = tmp_path / "converted.safetensors"
    command = ["checkpoint", "convert", tmp_path / "foreign.pth", "-o", out]
    assert main([str(arg) for arg in [*command, "--mapping", tmp_path / "map.json"]]) == 0
    assert torch.equal(load_checkpoint(out).network.project.weight, network.project.weight)
    changes = ["--change", "mask_empty_slots=true", "--change", "fusion_order=object_first"]
    code, _ = as_json(capsys, *command, "--mapping", tmp_path / "map.json", *changes)
    assert code == 0
    expected = SLIM.replace(mask_empty_slots=True, fusion_order=FusionOrder.OBJECT_FIRST)
    assert load_checkpoint(out).config == expected
    code, shown = as_json(capsys, *command, "--mapping", tmp_path / "map.json", "--config", "tiny")
    assert (code, shown["error"]["code"]) == (2, "CHECKPOINT_ERROR")
    assert "wrong shapes:" in shown["error"]["message"]


def test_flops_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = as_json(capsys, "bench", "flops", "--network", "tiny", "--size", "448x252")
    assert code == 0
    assert (shown["width"], shown["height"]) == (448, 252)
    first, last = shown["rewrites"][0], shown["rewrites"][-1]
    assert last["click_flops"] < first["click_flops"]
    assert main(["bench", "flops", "--network", "tiny", "--size", "448x252"]) == 0
    assert "R3" in capsys.readouterr().out
