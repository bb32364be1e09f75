"""TinyViT: its weights come out of an ONNX file, and the rest of the network works with it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from ois_client.contract.clicks import Prompts
from ois_client.contract.errors import CheckpointError
from ois_client.contract.geometry import Geometry
from ois_network.config import EncoderFamily, NetworkConfig, preset
from ois_network.encoders import build_encoder
from ois_network.encoders.tinyvit import (
    LEVEL_STRIDES,
    Block,
    LayerNorm2d,
    TinyViT,
    WindowAttention,
)
from ois_network.encoders.tinyvit_weights import load_tinyvit, read_tinyvit
from ois_network.half import lower_precision
from ois_network.initialise import build, randomise
from ois_network.network import OISNetwork
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites

#: A photograph encoder of its users' own: compared with ONNX Runtime where it is given.
REAL = os.environ.get("OIS_TINYVIT_ONNX")

PHOTO = preset("photo").replace(longest=320)


def random_encoder(seed: int = 0) -> TinyViT:
    generator = torch.Generator().manual_seed(seed)
    encoder = TinyViT().eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return encoder


# -- weights ---------------------------------------------------------------------------------------


def write_onnx(path: Path, encoder: TinyViT, leave_out: str = "", damage: str = "") -> Path:
    """A file with the nodes and constants of PyTorch's export of MobileSAM's encoder.

    The names are the original's; the nodes are not connected, because a reader needs them only.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def node(kind: str, name: str, *arrays: np.ndarray) -> None:
        if name == leave_out:
            return
        inputs = ["x"]
        for array in arrays:
            values = array[..., :-1] if name == damage else array
            constants.append(
                numpy_helper.from_array(np.ascontiguousarray(values), f"c{len(constants)}")
            )
            inputs.append(constants[-1].name)
        nodes.append(helper.make_node(kind, inputs, [f"y{len(nodes)}"], name=name))

    for name, module in encoder.named_modules():
        place = original_path(name)
        values = {key: value.numpy() for key, value in module.named_parameters(recurse=False)}
        if isinstance(module, nn.Conv2d):
            node("Conv", f"{place}/Conv", *values.values())
        elif isinstance(module, nn.Linear):
            node("MatMul", f"{place}/MatMul", values["weight"].T)
            node("Add", f"{place}/Add", values["bias"])
        elif isinstance(module, nn.LayerNorm | LayerNorm2d):
            shape = (-1, 1, 1) if isinstance(module, LayerNorm2d) else (-1,)
            node("Add", f"{place}/Add", np.array(1e-5, np.float32))  # the epsilon, no weight
            node("Mul", f"{place}/Mul", values["weight"].reshape(shape))
            node("Add", f"{place}/Add_1", values["bias"].reshape(shape))
        elif isinstance(module, WindowAttention):
            node("Add", f"{place}/Add", values["attention_biases"][:, module.offsets.numpy()])
    graph = helper.make_graph(nodes, "encoder", [], [], constants)
    onnx.save(helper.make_model(graph), str(path))
    return path


def original_path(name: str) -> str:
    for pattern, path in (
        (r"patch_embed\.(\d)", lambda m: f"/patch_embed/seq/seq.{2 * int(m[1])}/c"),
        (
            r"stages\.(\d)\.(\d)\.(conv\d|local_conv)",
            lambda m: f"/layers.{m[1]}/blocks.{m[2]}/{m[3]}/c",
        ),
        (
            r"stages\.(\d)\.(\d)\.(.+)",
            lambda m: f"/layers.{m[1]}/blocks.{m[2]}/{m[3].replace('.', '/')}",
        ),
        (r"merges\.(\d)\.(conv\d)", lambda m: f"/layers.{m[1]}/downsample/{m[2]}/c"),
        (r"neck\.(\d)", lambda m: f"/neck/neck.{m[1]}"),
    ):
        match = re.fullmatch(pattern, name)
        if match:
            return path(match)
    return ""


def test_weights_come_back_from_a_file(tmp_path: Path) -> None:
    encoder = random_encoder()
    found = read_tinyvit(write_onnx(tmp_path / "encoder.onnx", encoder))
    wanted = encoder.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"leave_out": "/neck/neck.2/Conv"}, "no weight at the node /neck/neck.2/Conv"),
        ({"damage": "/layers.1/blocks.0/attn/qkv/MatMul"}, "has the shape"),
        ({"damage": "/layers.2/blocks.3/attn/Add"}, "not one per offset"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    path = write_onnx(tmp_path / "encoder.onnx", random_encoder(), **changes)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        load_tinyvit(path)


def test_files_that_are_not_onnx_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    with pytest.raises(CheckpointError, match=r"not an ONNX file|is not TinyViT"):
        load_tinyvit(text)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_tinyvit(tmp_path / "none.onnx")


@pytest.mark.skipif(not REAL, reason="OIS_TINYVIT_ONNX names no encoder.onnx")
def test_a_real_file_computes_what_onnx_runtime_computes() -> None:
    import onnxruntime

    image = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    encoder = load_tinyvit(str(REAL))
    with torch.no_grad():
        ours = encoder(torch.from_numpy(image)[None])[3].numpy()
    pixels = (torch.from_numpy(image)[None].permute(0, 3, 1, 2) - encoder.mean) / encoder.std
    session = onnxruntime.InferenceSession(str(REAL))
    (theirs,) = session.run(None, {"input": pixels.numpy()})
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


# -- arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(14, 7), (9, 16), (3, 5)])
def test_windows_are_attended_to_one_by_one(rows: int, columns: int) -> None:
    """Against a loop over windows. The last ones are filled with zeros."""
    torch.manual_seed(0)
    block = Block(64, 7).eval().requires_grad_(False)
    block.attn.attention_biases.copy_(torch.randn_like(block.attn.attention_biases))
    x = torch.randn(2, 64, rows, columns)
    filled = torch.zeros(2, 64, -(-rows // 7) * 7, -(-columns // 7) * 7)
    filled[:, :, :rows, :columns] = x
    expected = torch.zeros_like(filled)
    for top in range(0, filled.shape[2], 7):
        for left in range(0, filled.shape[3], 7):
            window = filled[:, :, top : top + 7, left : left + 7]
            mixed = block.attn(window.flatten(2).transpose(1, 2))
            place = expected[:, :, top : top + 7, left : left + 7]
            place.copy_(mixed.transpose(1, 2).unflatten(2, (7, 7)))
    torch.testing.assert_close(block._attend(x), expected[:, :, :rows, :columns])


def test_the_bias_depends_on_the_offset_alone() -> None:
    attention = WindowAttention(32, 7)
    offsets = attention.offsets.reshape(7, 7, 7, 7)
    assert offsets[2, 3, 5, 1] == offsets[5, 1, 2, 3] == 3 * 7 + 2
    assert offsets.unique().numel() == 49


@pytest.mark.parametrize(("height", "width"), [(16, 16), (96, 160)])
def test_levels_have_the_strides_that_the_config_says(height: int, width: int) -> None:
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    config = preset("photo")
    levels = random_encoder()(image)
    for level, channels, scale, stride in zip(
        levels, config.level_channels, config.level_scales, LEVEL_STRIDES, strict=True
    ):
        assert level.shape == (1, channels, height // stride, width // stride)
        assert config.patch // scale == stride


# -- the whole network -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> OISNetwork:
    return randomise(build(PHOTO), seed=1).requires_grad_(False)


def picture() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Geometry]:
    geometry = Geometry.fit(150, 100, longest=160, patch=16, coverage_scale=4)
    rows, columns = map(torch.from_numpy, geometry.position_matrices(37))
    size = (geometry.network_height, geometry.network_width, 3)
    pixels = np.random.default_rng(3).integers(0, 256, size, dtype=np.uint8)
    return torch.from_numpy(pixels), rows, columns, geometry


def prompts(geometry: Geometry) -> Prompts[torch.Tensor]:
    points = torch.rand(2, 48, 2, generator=torch.Generator().manual_seed(0)) * 90
    labels = torch.full((2, 48), -1, dtype=torch.int32)
    labels[:, 0], labels[1, 24] = 1, 0
    coverage = torch.zeros(2, *geometry.coverage_shape, dtype=torch.uint8)
    coverage[:, 8:16, 12:24] = 255
    coverage[:, 16, 12:24] = 100
    return Prompts(points, labels, coverage, torch.tensor([True, False]))


@pytest.mark.parametrize("rewrites", [Rewrites.none(), Rewrites(), Rewrites(cached_kv=True)])
def test_the_cut_computes_what_the_whole_network_computes(
    network: OISNetwork, rewrites: Rewrites
) -> None:
    image, rows, columns, geometry = picture()
    clicks = prompts(geometry)
    with torch.no_grad():
        whole = network.click(network.encode(image[None], rows, columns), clicks)
        state = ImageEncoder(network, rewrites)(image, rows, columns)
        logits, coverage = ClickDecoder(network, rewrites)(state, *clicks.named().values())
    assert whole.shape == (2, geometry.network_height, geometry.network_width)
    assert (logits - whole).abs().max() <= 1e-5 * whole.abs().max()
    assert coverage.shape == clicks.coverage.shape


def test_half_precision_stays_near_the_network() -> None:
    network = randomise(build(PHOTO), seed=1).requires_grad_(False)
    image, rows, columns, geometry = picture()
    clicks = tuple(prompts(geometry).named().values())
    encoder, decoder = ImageEncoder(network), ClickDecoder(network)
    with torch.no_grad():
        exact, _ = decoder(encoder(image, rows, columns), *clicks)
        lower_precision(encoder, decoder, torch.bfloat16)
        state = encoder(image, rows, columns)
        rounded, _ = decoder(state, *clicks)
    assert state["lateral1"].dtype is torch.bfloat16
    assert state["depth"].dtype is torch.float32
    error = (rounded - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()
    assert error < 0.05


def test_the_family_is_part_of_the_config() -> None:
    config = preset("photo")
    assert config.encoder is EncoderFamily.TINYVIT
    assert NetworkConfig.from_dict(config.to_dict()) == config
    assert isinstance(build_encoder(config), TinyViT)
    old = {key: value for key, value in preset("tiny").to_dict().items() if key != "encoder"}
    assert NetworkConfig.from_dict(old) == preset("tiny")  # checkpoints from before there were two


@pytest.mark.parametrize("changes", [{"patch": 14}, {"embed_dim": 192}, {"fused_levels": (2, 4)}])
def test_impossible_combinations_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="tinyvit"):
        preset("photo").replace(longest=1008 if "patch" in changes else 1024, **changes)
