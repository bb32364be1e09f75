"""A checkpoint rebuilds its network from the file alone; other files get an error that says why."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ois_client.contract.errors import CheckpointError, OutputError
from ois_network.checkpoints.checkpoint import load_checkpoint, recognise, save_checkpoint
from ois_network.config import PRESETS
from ois_network.network import OISNetwork
from support.network_scenes import (
    SMALL,
    position_matrices,
    random_image,
    random_network,
    random_prompts,
)

MODELS = Path(__file__).resolve().parents[3] / "models"


@pytest.fixture(scope="module")
def network() -> OISNetwork:
    return random_network()


@pytest.fixture(scope="module")
def saved(network: OISNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(network, path, trained=True, notes={"steps": 7}, parent="ab" * 32)
    return path


def header_of(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ois"])
    return header


def rewrite(saved: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write the same tensors with a changed header."""
    header = header_of(saved)
    change(header)
    save_file(load_file(saved), target, {"ois": json.dumps(header)})
    return target


# --- round trips -----------------------------------------------------------------------------


def test_a_checkpoint_rebuilds_its_network(network: OISNetwork, saved: Path) -> None:
    loaded = load_checkpoint(saved)
    assert loaded.config == SMALL
    assert loaded.trained
    assert loaded.metadata["training"] == {"steps": 7}
    assert loaded.metadata["parent"] == "ab" * 32
    assert not loaded.network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name
    inputs = (random_image(SMALL, 3, 4).unsqueeze(0), *position_matrices(SMALL, 3, 4))
    prompts = random_prompts(3, 4, [(2, 1)], previous=[True])
    with torch.inference_mode():
        got, expected = loaded.network(*inputs, *prompts), network(*inputs, *prompts)
    assert torch.equal(got, expected)


def test_fp16_rounds_parameters_and_keeps_buffers(network: OISNetwork, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    sha256 = save_checkpoint(network, path, dtype="fp16", trained=False)
    loaded = load_checkpoint(path)
    assert loaded.sha256 == sha256
    assert not loaded.trained
    state = loaded.network.state_dict()
    for name, tensor in network.state_dict().items():
        expected = tensor if name == "position.gaussian" else tensor.half().float()
        assert torch.equal(state[name], expected), name
        assert state[name].dtype == torch.float32


def test_a_pytorch_file_with_config_and_state_dict_loads(
    network: OISNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "small.pth"
    config = json.loads(json.dumps(SMALL.to_dict()))
    torch.save({"config": config, "state_dict": network.state_dict()}, path)
    loaded = load_checkpoint(path)
    assert loaded.config == SMALL
    assert not loaded.trained, "weights count as trained only if the header says so"
    assert torch.equal(loaded.network.project.weight, network.project.weight)


def test_the_shipped_checkpoint_loads() -> None:
    loaded = load_checkpoint(MODELS / "ois-tiny.safetensors")
    assert loaded.config == PRESETS["tiny"]
    assert loaded.metadata["dtype"] == "fp16"


# --- writing ---------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file(network: OISNetwork, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="no file was changed"):
            save_checkpoint(network, path, trained=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing/x.safetensors", "No such file"), ("x.pth", "ending in .safetensors")],
)
def test_an_unwritable_name_is_an_output_error(
    network: OISNetwork, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(OutputError, match=message):
        save_checkpoint(network, tmp_path / name, trained=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "dtype", "advice"),
    [(float("nan"), "fp32", "diverged"), (1e6, "fp16", "store it as fp32")],
)
def test_weights_that_do_not_fit_are_not_saved(
    tmp_path: Path, value: float, dtype: str, advice: str
) -> None:
    broken = random_network()
    broken.project.bias[3] = value
    with pytest.raises(CheckpointError, match=rf"infinite values in project\.bias; .*{advice}"):
        save_checkpoint(broken, tmp_path / "x.safetensors", dtype=dtype, trained=True)
    assert not list(tmp_path.iterdir())


# --- wrong files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, these are notes\n", "is a text file"),
        ("Gewichte für später\n".encode() * 40, "is a text file"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a file of tensors"),
        (b"PK\x03\x04" + bytes(300), "is a damaged PyTorch file"),
        (b"\x80\x02}q\x00.", "contains no tensors|damaged"),
        ((200).to_bytes(8, "little") + b"{" + b" " * 50, "is truncated"),
        ((50).to_bytes(8, "little") + b"{" + b"x" * 80, "header is damaged"),
    ],
)
def test_the_error_says_what_other_files_are(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_code_in_a_file_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[object, Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    write({"state_dict": {}, "args": _Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match="running code stored in it"):
        load_checkpoint(tmp_path / "bomb.pth")
    assert list(tmp_path.iterdir()) == [tmp_path / "bomb.pth"]


def test_a_training_file_with_its_arguments_says_how_to_save_it_again(tmp_path: Path) -> None:
    path = tmp_path / "train.pth"
    torch.save({"args": argparse.Namespace(lr=1), "model": {"w": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match=r"torch\.save\(model\.state_dict\(\)"):
        load_checkpoint(path)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_cut_or_extended_file_is_refused(saved: Path, tmp_path: Path, data: Any) -> None:
    whole = saved.read_bytes()
    size = data.draw(st.integers(0, len(whole) + 9).filter(lambda n: n != len(whole)))
    path = tmp_path / "cut.safetensors"
    path.write_bytes((whole + bytes(9))[:size])
    with pytest.raises(CheckpointError, match=r"truncated|empty|last tensor|tensors|text file"):
        load_checkpoint(path)


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_header_loads_or_is_refused_with_a_reason(
    saved: Path, tmp_path: Path, data: Any
) -> None:
    whole = bytearray(saved.read_bytes())
    length = int.from_bytes(whole[:8], "little")
    place = data.draw(st.integers(0, 7 + length))
    whole[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(whole)
    with suppress(CheckpointError):
        load_checkpoint(path)


def test_missing_unexpected_and_misshaped_tensors_are_reported_together(
    saved: Path, tmp_path: Path
) -> None:
    tensors = load_file(saved)
    del tensors["project.bias"]
    tensors["extra"] = torch.zeros(2)
    tensors["project.weight"] = torch.zeros(3, 4)
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"ois": json.dumps(header_of(saved))})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "1 missing: project.bias" in message
    assert "1 unexpected: extra" in message
    assert "1 wrong shape: project.weight got (3, 4) expected (32, 48)" in message


def test_a_long_list_of_missing_tensors_is_cut(saved: Path, tmp_path: Path) -> None:
    tensors = {name: t for name, t in load_file(saved).items() if "blocks" not in name}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"ois": json.dumps(header_of(saved))})
    with pytest.raises(CheckpointError, match=r"\d+ missing: .* and \d+ more"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved: Path, tmp_path: Path, value: float) -> None:
    tensors = load_file(saved)
    tensors["project.bias"][0] = value
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"ois": json.dumps(header_of(saved))})
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in project\.bias"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(schema=2), "has schema 2; this version reads 1"),
        (lambda h: h.pop("config"), "without a network config"),
        (lambda h: h["config"].update(colour="red"), "unknown fields"),
        (lambda h: h["config"].update(heads=0), "impossible network config"),
        (lambda h: h["config"].update(heads="three"), "field 'heads'"),
        (lambda h: h["config"].update(embed_dim=3 * 10**9), "wrong shape|no network"),
        (lambda h: h["config"].update(fused_levels=[4]), r"unexpected: inject\.3"),
    ],
)
def test_a_wrong_header_is_refused(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = rewrite(saved, tmp_path / "x.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_only_a_plain_true_means_trained(saved: Path, tmp_path: Path) -> None:
    path = rewrite(saved, tmp_path / "x.safetensors", lambda h: h.update(trained="yes"))
    assert load_checkpoint(path).trained is False


# --- files of other projects -------------------------------------------------------------------

FOREIGN = {
    "Depth-Anything-V2": ["pretrained.patch_embed.proj.weight", "depth_head.projects.0.bias"],
    "Depth-Anything in transformers' layout": [
        "backbone.embeddings.patch_embeddings.projection.weight",
        "neck.reassemble_stage.layers.0.projection.weight",
    ],
    "SAM": [
        "image_encoder.pos_embed",
        "prompt_encoder.not_a_point_embed.weight",
        "mask_decoder.iou_token.weight",
    ],
    "HQ-SAM": ["image_encoder.pos_embed", "mask_decoder.hf_token.weight"],
    "SAM 2": ["image_encoder.trunk.pos_embed", "sam_mask_decoder.iou_token.weight"],
    "SegNext": ["backbone.pos_embed", "visual_prompts_encoder.proj.weight", "fusion_blocks.0.x"],
    "SimpleClick": ["patch_embed_coords.proj.weight", "backbone.pos_embed"],
    "DINOv2": ["patch_embed.proj.weight", "blocks.0.ls1.gamma", "norm.weight"],
}


@pytest.mark.parametrize("family", FOREIGN)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_foreign_checkpoints_are_recognised(tmp_path: Path, family: str, suffix: str) -> None:
    tensors = {name: torch.zeros(2) for name in FOREIGN[family]}
    path = tmp_path / f"foreign.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": tensors, "config": "RITM's own"}, path)
    else:
        save_file(tensors, path)
    with pytest.raises(CheckpointError, match=f"looks like a checkpoint of {family}, not of OIS"):
        load_checkpoint(path)


def test_depth_anything_files_get_advice() -> None:
    known = recognise(FOREIGN["Depth-Anything-V2"])
    assert known is not None
    assert "ois checkpoint assemble" in known.advice


def test_unknown_tensors_get_advice_on_conversion(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="ois checkpoint convert"):
        load_checkpoint(tmp_path / "x.safetensors")
