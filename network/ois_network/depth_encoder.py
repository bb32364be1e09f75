"""Depth as features instead of order maps: the paper's Table 5, row "DepthEncoder".

The paper takes MM-SAM's strategy: an extra encoder for the depth map, whose features are fused
with those of the image. Here D goes through its own patch embedding and `depth_blocks` transformer
blocks, and a gate decides per patch how much of image and depth counts, as MM-SAM's selective
fusion gate does. Differences from MM-SAM (*ours*): the blocks are small and trained from scratch
(MM-SAM's are those of SAM's image encoder with LoRA), and the masks' loss alone trains them.

With `depth_blocks` 0 two convolutions replace the encoder, and the sum replaces the gate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ois_network.config import NetworkConfig
from ois_network.encoders.dinov2 import Block


class DepthEncoder(nn.Module):
    """Image features and D -> fused features. Nothing here depends on a click."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim = config.prompt_dim
        self.patchify = nn.Conv2d(1, dim, config.patch, stride=config.patch)
        self.mix = nn.Conv2d(dim, dim, 1)
        blocks, heads, ratio = config.depth_blocks, config.fusion_heads, config.mlp_ratio
        self.blocks = nn.ModuleList(Block(dim, heads, ratio) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim, eps=1e-6) if blocks else None
        self.gate = (
            nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, 1)) if blocks else None
        )

    def forward(self, image: Tensor, depth: Tensor, position: Tensor) -> Tensor:
        """image features (B, K, C), D (B, h, w), position (1, K, C) -> (B, K, C)."""
        hidden = self.patchify(depth.unsqueeze(1))
        if self.norm is None or self.gate is None:
            return (image + self.mix(F.gelu(hidden)).flatten(2).transpose(1, 2)).to(image.dtype)
        x = self.mix(hidden).flatten(2).transpose(1, 2) + position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        share = torch.sigmoid(self.gate(torch.cat((image.to(x.dtype), x), dim=2)))  # (B, K, 1)
        return (share * image + (1 - share) * x).to(image.dtype)
