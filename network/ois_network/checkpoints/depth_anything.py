"""Public Depth-Anything-V2 weights as OIS's encoder and depth head (paper §4.1).

`depth_anything_v2_vit{s,b,l}.pth` is a flat state dict of `pretrained.*` and `depth_head.*`. The
names are ours, except that `pretrained.` is our `encoder.`. Only DINOv2's `mask_token` is left
out, because inference does not use it. The network's sizes are inferred from the tensors' shapes.

Two other families have the same names and shapes and cannot be recognised: Depth-Anything V1,
whose head reads other layers, and the metric V2 models, which output depth instead of inverse
depth. Neither works with OIS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ois_client.contract.errors import CheckpointError
from ois_network.checkpoints.checkpoint import (
    BASE_PARTS,
    StoredDtype,
    base_sha256,
    config_of,
    differences,
    network_of,
    read_header,
    recognise,
    save_checkpoint,
)
from ois_network.checkpoints.weights_file import WeightsFile, read_weights
from ois_network.config import PRESETS, NetworkConfig
from ois_network.initialise import altered, build, start_mask_head
from ois_network.network import OISNetwork

_DROPPED = "pretrained.mask_token"
_HEAD_WIDTH = 64  # channels per attention head, in every DINOv2


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """Encoder and depth head of a Depth-Anything-V2 file.

    config: of a network with them. tensors: `encoder.*` and `depth_head.*`. sha256: of the file.
    """

    config: NetworkConfig
    tensors: dict[str, Tensor]
    sha256: str


def read_depth_anything(path: str | Path) -> BaseWeights:
    """Read a Depth-Anything-V2 file. Raises `CheckpointError` for any other file."""
    weights = read_weights(path)
    tensors = _strip(weights)
    config = infer_config(tensors, str(weights.path))
    renamed = {
        name.replace("pretrained.", "encoder.", 1): tensor
        for name, tensor in tensors.items()
        if name != _DROPPED
    }
    return BaseWeights(config, renamed, weights.sha256)


def load_depth_anything(path: str | Path) -> OISNetwork:
    """A network with this encoder and depth head, and a mask head initialised from the depth head.

    Prompt encoders and fusion are random (seed 0), so its masks mean nothing before training.
    Raises `CheckpointError` if `path` is not a Depth-Anything-V2 file.
    """
    base = read_depth_anything(path)
    return _network_with(base, str(path))


def assemble(
    depth_anything_path: str | Path,
    parts_path: str | Path | None,
    out: str | Path,
    *,
    dtype: StoredDtype | str = StoredDtype.FP32,
    changes: Mapping[str, Any] | None = None,
) -> str:
    """Join a Depth-Anything-V2 file and trained parts into a checkpoint; returns its sha256.

    parts_path: a checkpoint saved with `parts_only`; None writes an untrained network, to start
    training from. changes: switches that differ from those of the preset or of the parts
    (`variants.changed`). Raises `CheckpointError` if the parts were trained with another base,
    `InvalidInput` for a wrong change, and `OutputError` if `out` cannot be written.
    """
    changes = dict(changes or {})
    base = read_depth_anything(depth_anything_path)
    if parts_path is None:
        network = _network_with(base, str(depth_anything_path))
        if changes:
            network = altered(network, changes).network
        return save_checkpoint(network, out, dtype=dtype, trained=False, parent=base.sha256)
    parts = read_weights(parts_path)
    header = read_header(parts)
    if not header["parts_only"]:
        raise CheckpointError(
            f"{parts.path} is a whole checkpoint; expected one that was saved with parts_only. "
            "Use it as it is, it needs no Depth-Anything-V2 file"
        )
    found = base_sha256(base.tensors)
    if header.get("base") != found:
        raise CheckpointError(
            f"{parts.path} was trained with another encoder and depth head: got a base of sha256 "
            f"{found[:12]} from {depth_anything_path}, expected {str(header.get('base'))[:12]}. "
            "Use the Depth-Anything-V2 file with which it was trained"
        )
    config = config_of(header, str(parts.path))
    network = network_of(
        config, {**base.tensors, **parts.tensors}, f"{depth_anything_path} + {parts.path}"
    )
    notes, trained = dict(header.get("training") or {}), header["trained"]
    if changes:
        made = altered(network, changes)
        network = made.network
        # Parts that nothing has trained make masks that mean nothing.
        trained = trained and not made.new
        notes["changed_after_training"] = {**changes, "untrained": list(made.new)}
    return save_checkpoint(
        network,
        out,
        dtype=dtype,
        trained=trained,
        notes=notes,
        parent=parts.sha256,
    )


def infer_config(tensors: Mapping[str, Tensor], source: str = "the state dict") -> NetworkConfig:
    """The config of a network whose encoder and depth head have these shapes.

    Fields that shapes do not determine, such as the four output layers, come from the preset of the
    same width and depth, or else of the same depth. Raises `CheckpointError` if there is none, or
    tensors are missing.
    """
    try:
        dim = tensors["pretrained.cls_token"].shape[-1]
        positions = tensors["pretrained.pos_embed"].shape[1] - 1
        patch = tensors["pretrained.patch_embed.proj.weight"].shape[-1]
        hidden = tensors["pretrained.blocks.0.mlp.fc1.weight"].shape[0]
        features = tensors["depth_head.scratch.layer1_rn.weight"].shape[0]
        channels = [tensors[f"depth_head.projects.{n}.weight"].shape[0] for n in range(4)]
    except (KeyError, IndexError) as error:
        giant = any(".mlp.w12." in name for name in tensors)
        reason = "ViT-g's SwiGLU blocks are not supported" if giant else f"{error} is missing"
        raise CheckpointError(
            f"{source}: {reason}; expected Depth-Anything-V2 vits, vitb or vitl"
        ) from None
    found = (re.match(r"pretrained\.blocks\.(\d+)\.", name) for name in tensors)
    depth = 1 + max(int(match[1]) for match in found if match)
    same_depth = [preset for preset in PRESETS.values() if preset.depth == depth]
    if not same_depth or dim % _HEAD_WIDTH:
        known = ", ".join(f"{p.name} ({p.embed_dim} x {p.depth})" for p in PRESETS.values())
        raise CheckpointError(
            f"{source}: got a ViT of width {dim} and depth {depth}; expected one of {known}"
        )
    exact = [preset for preset in same_depth if preset.embed_dim == dim]
    like = exact[0] if exact else same_depth[0]
    return like.replace(
        name=like.name if exact else f"vit{dim}x{depth}",
        embed_dim=dim,
        heads=dim // _HEAD_WIDTH,
        mlp_ratio=hidden // dim,
        patch=patch,
        position_table=round(positions**0.5),
        head_features=features,
        head_channels=tuple(channels),
    )


def _strip(weights: WeightsFile) -> dict[str, Tensor]:
    """The state dict, without a prefix `module.` or `model.` that all names have.

    Raises `CheckpointError` if it is not Depth-Anything-V2's.
    """
    tensors = weights.tensors
    for prefix in ("module.", "model."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    known = recognise(tensors)
    if known is None or known.family != "Depth-Anything-V2":
        found = f"looks like a checkpoint of {known.family}" if known else "is something else"
        if "ois" in weights.header:
            found = "is an OIS checkpoint"
        raise CheckpointError(
            f"{weights.path} {found}; expected Depth-Anything-V2's depth_anything_v2_vits.pth, "
            "vitb or vitl (tensors named pretrained.* and depth_head.*)"
        )
    return tensors


def _network_with(base: BaseWeights, source: str) -> OISNetwork:
    network = build(base.config)
    own = network.state_dict()
    expected = {name: tuple(t.shape) for name, t in own.items() if name.startswith(BASE_PARTS)}
    problems = differences(expected, base.tensors)
    if problems:
        raise CheckpointError(
            f"{source} is not a complete Depth-Anything-V2: " + "; ".join(problems)
        )
    network = network_of(base.config, {**own, **base.tensors}, source)
    start_mask_head(network)
    return network
