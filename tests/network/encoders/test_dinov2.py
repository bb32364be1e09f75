"""Encoder and depth head compute what Depth-Anything-V2 in transformers computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ois_network.attention import EquationAttention, set_attention_ops
from ois_network.config import PRESETS, NetworkConfig
from ois_network.network import OISNetwork
from support.network_scenes import (
    SMALL,
    position_matrices,
    random_image,
    random_network,
    relative_error,
)

transformers = pytest.importorskip("transformers")

#: Position table and image sizes of the real model, everything else small.
SLIM = SMALL.replace(position_table=37)

_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
_HEAD = {
    "scratch.output_conv1": "head.conv1",
    "scratch.output_conv2.0": "head.conv2",
    "scratch.output_conv2.2": "head.conv3",
}


def transformers_names(network: OISNetwork) -> dict[str, Tensor]:
    """Encoder and depth head under the names of `DepthAnythingForDepthEstimation`."""
    embeddings = "backbone.embeddings"
    plain = {
        "encoder.cls_token": f"{embeddings}.cls_token",
        "encoder.pos_embed": f"{embeddings}.position_embeddings",
        "encoder.patch_embed.proj": f"{embeddings}.patch_embeddings.projection",
        "encoder.norm": "backbone.layernorm",
    }
    for number in range(network.config.depth):
        for ours, theirs in _BLOCK.items():
            plain[f"encoder.blocks.{number}.{ours}"] = f"backbone.encoder.layer.{number}.{theirs}"
    head = dict(_HEAD)
    for index in range(4):
        head[f"projects.{index}"] = f"neck.reassemble_stage.layers.{index}.projection"
        head[f"resize_layers.{index}"] = f"neck.reassemble_stage.layers.{index}.resize"
        head[f"scratch.layer{index + 1}_rn"] = f"neck.convs.{index}"
        fusion = f"neck.fusion_stage.layers.{3 - index}"  # theirs are in order from coarse to fine
        refinenet = f"scratch.refinenet{index + 1}"
        head[f"{refinenet}.out_conv"] = f"{fusion}.projection"
        for unit in (1, 2):
            for conv in (1, 2):
                head[f"{refinenet}.resConfUnit{unit}.conv{conv}"] = (
                    f"{fusion}.residual_layer{unit}.convolution{conv}"
                )
    plain |= {f"depth_head.{ours}": theirs for ours, theirs in head.items()}

    renamed = {f"{embeddings}.mask_token": torch.zeros(1, network.config.embed_dim)}
    for name, tensor in network.state_dict().items():
        if not name.startswith(("encoder.", "depth_head.")):
            continue
        stem, _, kind = name.rpartition(".")
        if stem.endswith("attn.qkv"):
            number = stem.split(".")[2]
            for which, part in zip("qkv", tensor.chunk(3), strict=True):
                path = f"backbone.encoder.layer.{number}.attention.{which}_proj.{kind}"
                renamed[path] = part
        else:
            renamed[plain[name] if name in plain else f"{plain[stem]}.{kind}"] = tensor
    return renamed


def transformers_network(network: OISNetwork) -> torch.nn.Module:
    config = network.config
    backbone = transformers.Dinov2Config(
        hidden_size=config.embed_dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        image_size=config.position_table * config.patch,
        patch_size=config.patch,
        out_indices=[layer + 1 for layer in config.out_layers],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    theirs = transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=config.embed_dim,
            patch_size=config.patch,
            neck_hidden_sizes=list(config.head_channels),
            fusion_hidden_size=config.head_features,
            head_hidden_size=32,
        )
    )
    theirs.load_state_dict(transformers_names(network), strict=True)
    return theirs.eval()


def check_agreement(config: NetworkConfig, rows: int, columns: int) -> None:
    network = random_network(config)
    image = random_image(config, rows, columns)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels = (image.permute(2, 0, 1) / 255 - mean) / std
    with torch.inference_mode():
        theirs = transformers_network(network)(pixel_values=pixels.unsqueeze(0)).predicted_depth
        ours = network.encode(
            image.unsqueeze(0), *position_matrices(config, rows, columns, offset=0.0)
        ).depth
    assert float(theirs.std()) > 0.01, "a flat map would agree with anything"
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    ("height", "width"), [(518, 518), (574, 1022), (1022, 574), (518, 392), (14, 42)]
)
def test_depth_agrees_with_transformers(height: int, width: int) -> None:
    check_agreement(SLIM, height // 14, width // 14)


def test_depth_of_a_real_size_agrees_with_transformers() -> None:
    check_agreement(PRESETS["vits"], 37, 37)


@pytest.mark.parametrize(("rows", "columns"), [(73, 73), (41, 73), (73, 41), (37, 28), (37, 37)])
def test_positions_are_interpolated_as_dinov2_does(rows: int, columns: int) -> None:
    network = random_network(SLIM)
    table = network.encoder.pos_embed[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    expected = table
    if (rows, columns) != (37, 37):  # then DINOv2 uses its table unchanged
        scale = ((rows + 0.1) / 37, (columns + 0.1) / 37)
        expected = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
    assert expected.shape[-2:] == (rows, columns)
    got = network.encoder._positions(*position_matrices(SLIM, rows, columns))
    # PyTorch computes the sampling positions in fp32, we in fp64.
    torch.testing.assert_close(got, expected.flatten(2).transpose(1, 2), rtol=0, atol=3e-5)


def test_images_of_a_batch_do_not_affect_each_other() -> None:
    network = random_network()
    images = torch.stack([random_image(SMALL, 4, 5, seed) for seed in range(3)])
    matrices = position_matrices(SMALL, 4, 5)
    together = network.encode(images, *matrices)
    for number in range(3):
        alone = network.encode(images[number : number + 1], *matrices)
        torch.testing.assert_close(together.depth[number : number + 1], alone.depth)
        for level, expected in zip(together.levels, alone.levels, strict=True):
            torch.testing.assert_close(level[number : number + 1], expected)


def test_fused_attention_is_the_equation() -> None:
    image, matrices = random_image(SMALL, 4, 5), position_matrices(SMALL, 4, 5)
    network = random_network()
    fused = network.encode(image.unsqueeze(0), *matrices).depth
    set_attention_ops(network, EquationAttention())
    torch.testing.assert_close(network.encode(image.unsqueeze(0), *matrices).depth, fused)
