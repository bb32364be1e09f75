"""Files with the names and shapes of public Depth-Anything-V2 weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ois_network.network import OISNetwork
from support.network_scenes import SMALL

#: Small, but with DINOv2's 64 channels per attention head and the depth of a preset.
SLIM = SMALL.replace(embed_dim=64, heads=1, depth=6, out_layers=(1, 2, 4, 5), position_table=37)


def depth_anything_names(network: OISNetwork) -> dict[str, Tensor]:
    """The tensors of a public file under their names there (239 for depth 12)."""
    state = {
        name.replace("encoder.", "pretrained.", 1): tensor
        for name, tensor in network.state_dict().items()
        if name.startswith(("encoder.", "depth_head."))
    }
    state["pretrained.mask_token"] = torch.zeros(
        1, network.config.embed_dim, device=network.encoder.cls_token.device
    )
    return state


def write_public(path: Path, network: OISNetwork) -> Path:
    torch.save(depth_anything_names(network), path)
    return path
