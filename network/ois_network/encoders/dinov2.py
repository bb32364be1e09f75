"""DINOv2's ViT as Depth-Anything-V2 uses it; frozen in OIS (paper §4.1).

Parameter names are those of Depth-Anything-V2 below `pretrained.`. The position table P is
interpolated with two small matrices that are inputs, `P' = R P Cᵀ`. Bicubic interpolation is
linear and separable, so one graph is exact for every image shape (`Geometry.position_matrices`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ois_network.attention import MASKED_LOGIT, SelfAttention, fill_up
from ois_network.config import NetworkConfig
from ois_network.encoders.base import PixelEncoder


class LayerScale(nn.Module):
    """One learned factor per channel, on each residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SelfAttention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, dim * mlp_ratio)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), bias))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, 3, h, w) -> (B, D, gh, gw)."""
        return self.proj(image)


class DINOv2(PixelEncoder):
    """uint8 pixels -> the normalised patch tokens of four layers."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.position_table**2, dim))
        self.patch_embed = PatchEmbed(dim, config.patch)
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, image: Tensor, pos_rows: Tensor, pos_cols: Tensor) -> list[Tensor]:
        """The outputs of `out_layers`: four tensors (B, D, gh, gw).

        Each went through the same final LayerNorm; the class token is dropped.
        image (B, h, w, 3) uint8 RGB, pos_rows (gh, T), pos_cols (gw, T).
        """
        patches = self.patch_embed(self.normalised(image))  # (B, D, gh, gw)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2) + self._positions(pos_rows, pos_cols)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(image.shape[0], -1, -1)
        x, bias = self._padded(torch.cat((cls, tokens), dim=1))  # (B, 1 + gh*gw, D)
        outputs = []
        for number, block in enumerate(self.blocks):
            x = block(x, bias)
            if number in self.config.out_layers:
                level = self.norm(x)[:, 1 : 1 + rows * columns]
                outputs.append(level.transpose(1, 2).unflatten(2, (rows, columns)))
        return outputs

    def _padded(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (B, L, D) with zero rows up to a multiple, and the bias that masks those rows."""
        if self.token_multiple == 1:
            return x, None
        padded, length = fill_up(x, 1, self.token_multiple), x.shape[1]
        real = torch.arange(padded.shape[1], device=x.device) < length
        bias = torch.where(real, 0.0, MASKED_LOGIT).to(x.dtype)
        return padded, bias.view(1, 1, 1, -1)

    def _positions(self, pos_rows: Tensor, pos_cols: Tensor) -> Tensor:
        """R P Cᵀ -> (1, gh*gw, D)."""
        size, dim = self.config.position_table, self.config.embed_dim
        table = self.pos_embed[0, 1:]  # (T*T, D), row-major
        rows = pos_rows @ table.reshape(size, size * dim)  # (gh, T*D)
        table = rows.view(-1, size, dim)  # (gh, T, D)
        return (pos_cols @ table).reshape(1, -1, dim)  # (gh, gw, D) flattened
