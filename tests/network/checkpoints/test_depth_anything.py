"""Public Depth-Anything-V2 files become our encoder and depth head, with the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ois_client.contract.errors import CheckpointError
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_network.checkpoints.depth_anything import assemble, infer_config, load_depth_anything
from ois_network.config import PRESETS, NetworkConfig
from ois_network.network import OISNetwork
from ois_network.parameters import meta_network
from support.network_scenes import position_matrices, random_image, random_network
from support.public_weights import SLIM, depth_anything_names, write_public


@pytest.fixture(scope="module")
def source() -> OISNetwork:
    return random_network(SLIM)


@pytest.fixture
def public(source: OISNetwork, tmp_path: Path) -> Path:
    return write_public(tmp_path / "depth_anything_v2_slim.pth", source)


@pytest.mark.parametrize("name", ["tiny", "vits", "vitb", "vitl"])
def test_the_size_is_read_from_the_shapes(name: str) -> None:
    names = depth_anything_names(meta_network(PRESETS[name]))
    assert infer_config(names) == PRESETS[name]


def test_a_public_vitb_has_239_tensors_and_97_470_785_parameters() -> None:
    names = depth_anything_names(meta_network(PRESETS["vitb"]))
    assert len(names) == 239
    assert sum(tensor.numel() for tensor in names.values()) == 97_470_785


def test_an_unknown_width_takes_the_layers_of_its_depth() -> None:
    config = infer_config(depth_anything_names(meta_network(SLIM)))
    assert (config.embed_dim, config.depth, config.heads) == (64, 6, 1)
    assert config.out_layers == PRESETS["tiny"].out_layers
    assert config.head_channels == SLIM.head_channels
    assert config.position_table == 37


def test_it_loads_unchanged_and_starts_the_mask_head(source: OISNetwork, public: Path) -> None:
    network = load_depth_anything(public)
    for name, tensor in source.state_dict().items():
        if name.startswith(("encoder.", "depth_head.")):
            assert torch.equal(network.state_dict()[name], tensor), name
        if name.startswith("depth_head."):
            copied = network.state_dict()[name.replace("depth_head.", "mask_head.")]
            assert torch.equal(copied, tensor), name
    image, matrices = random_image(SLIM, 4, 5).unsqueeze(0), position_matrices(SLIM, 4, 5)
    assert torch.equal(
        network.encode(image, *matrices).depth, source.encode(image, *matrices).depth
    )


@pytest.mark.parametrize("prefix", ["module.", "model."])
@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_wrapped_files_load_too(
    source: OISNetwork, tmp_path: Path, prefix: str, key: str | None
) -> None:
    state = {prefix + name: tensor for name, tensor in depth_anything_names(source).items()}
    torch.save({key: state} if key else state, tmp_path / "x.pth")
    network = load_depth_anything(tmp_path / "x.pth")
    assert torch.equal(network.encoder.cls_token, source.encoder.cls_token)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("depth_head.scratch.layer2_rn.weight"), "1 missing: depth_head.scratch"),
        (lambda s: s.pop("pretrained.cls_token"), "cls_token' is missing"),
        (
            lambda s: s.update({"pretrained.head.weight": torch.zeros(1)}),
            "1 unexpected",
        ),
        (lambda s: s["pretrained.norm.bias"].fill_(torch.nan), "NaN or infinite"),
        (lambda s: s.update({"pretrained.pos_embed": torch.zeros(1, 1400, 64)}), "wrong shape"),
        (
            lambda s: s.update({"pretrained.blocks.39.norm1.bias": torch.zeros(64)}),
            "width 64 and depth 40",
        ),
        (
            lambda s: s.update(
                {"pretrained.blocks.0.mlp.w12.weight": s.pop("pretrained.blocks.0.mlp.fc1.weight")}
            ),
            "SwiGLU",
        ),
    ],
)
def test_a_damaged_public_file_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = {name: t.clone() for name, t in depth_anything_names(random_network(SLIM)).items()}
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        load_depth_anything(tmp_path / "x.pth")


def test_other_checkpoints_are_not_taken_for_depth_anything(
    source: OISNetwork, tmp_path: Path
) -> None:
    save_checkpoint(source, tmp_path / "ours.safetensors", trained=True)
    with pytest.raises(CheckpointError, match="is an OIS checkpoint; expected Depth-Anything-V2"):
        load_depth_anything(tmp_path / "ours.safetensors")
    save_file({"patch_embed_coords.a": torch.zeros(1), "backbone.b": torch.zeros(1)},
              tmp_path / "x.safetensors")  # fmt: skip
    with pytest.raises(CheckpointError, match="SimpleClick; expected Depth-Anything-V2"):
        load_depth_anything(tmp_path / "x.safetensors")


# --- assembling ------------------------------------------------------------------------------


def trained_parts(source: OISNetwork, config: NetworkConfig = SLIM) -> OISNetwork:
    """A network with the source's encoder and depth head, and other weights elsewhere."""
    network = random_network(config, seed=5)
    network.encoder.load_state_dict(source.encoder.state_dict())
    network.depth_head.load_state_dict(source.depth_head.state_dict())
    return network


@pytest.mark.parametrize("through_fp16", [False, True])
def test_parts_and_a_public_file_make_the_whole(
    source: OISNetwork, public: Path, tmp_path: Path, through_fp16: bool
) -> None:
    """Also for parts that were trained with a base stored as fp16."""
    whole = trained_parts(source)
    if through_fp16:
        save_checkpoint(whole, tmp_path / "half.safetensors", dtype="fp16", trained=True)
        whole = load_checkpoint(tmp_path / "half.safetensors").network
    parts, out = tmp_path / "parts.safetensors", tmp_path / "out.safetensors"
    save_checkpoint(whole, parts, trained=True, notes={"steps": 3}, parts_only=True)
    assert parts.stat().st_size < 0.6 * public.stat().st_size

    assemble(public, parts, out)
    loaded = load_checkpoint(out)
    assert loaded.trained
    assert loaded.metadata["training"] == {"steps": 3}
    for name, tensor in whole.state_dict().items():
        base = name.startswith(("encoder.", "depth_head."))
        expected = source.state_dict()[name] if base else tensor
        assert torch.equal(loaded.network.state_dict()[name], expected), name


def test_parts_of_another_base_are_refused(public: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts.safetensors"
    save_checkpoint(random_network(SLIM, seed=9), parts, trained=True, parts_only=True)
    with pytest.raises(CheckpointError, match="trained with another encoder and depth head"):
        assemble(public, parts, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_parts_alone_say_that_they_need_a_base(source: OISNetwork, tmp_path: Path) -> None:
    parts = tmp_path / "parts.safetensors"
    save_checkpoint(source, parts, trained=True, parts_only=True)
    with pytest.raises(CheckpointError, match=r"trained parts only.*ois checkpoint assemble"):
        load_checkpoint(parts)


def test_a_whole_checkpoint_is_not_parts(source: OISNetwork, public: Path, tmp_path: Path) -> None:
    save_checkpoint(source, tmp_path / "whole.safetensors", trained=True)
    with pytest.raises(CheckpointError, match="is a whole checkpoint; expected"):
        assemble(public, tmp_path / "whole.safetensors", tmp_path / "out.safetensors")


def test_without_parts_the_result_is_untrained(public: Path, tmp_path: Path) -> None:
    assemble(public, None, tmp_path / "out.safetensors", dtype="fp16")
    loaded = load_checkpoint(tmp_path / "out.safetensors")
    assert not loaded.trained
    assert loaded.metadata["dtype"] == "fp16"
