"""TinyViT-5M as MobileSAM uses it: a hierarchical image encoder with windowed attention.

Four levels at strides 4, 8, 16 and 16: the outputs of the first three stages, and the neck that
follows the last stage (MobileSAM keeps the stride of 16 there). Attention stays inside windows and
its position bias depends on offsets only, so an image of any size that is a multiple of 16 needs no
positional table.

BatchNorm is folded into the convolutions, because the encoder is frozen. Parameter names follow
the original implementation where there is a counterpart. `tinyvit_weights.py` reads them from an
exported ONNX file.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ois_network.encoders.base import PixelEncoder

_HEAD_DIM = 32
_MLP_RATIO = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. window is the side of an attention window; None for a convolutional stage."""

    channels: int
    blocks: int
    window: int | None


#: The 5M variant.
STAGES = (Stage(64, 2, None), Stage(128, 2, 7), Stage(160, 6, 14), Stage(320, 2, 7))
NECK_CHANNELS = 256

#: Strides of the four levels that the encoder returns.
LEVEL_STRIDES = (4, 8, 16, 16)


class MBConv(nn.Module):
    """Inverted residual block: expand (1x1), depthwise (3x3), project (1x1)."""

    def __init__(self, dim: int, expand: int = 4) -> None:
        super().__init__()
        hidden = dim * expand
        self.conv1 = nn.Conv2d(dim, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.conv3 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(hidden))


class PatchMerging(nn.Module):
    """Between stages: new channels, and half the resolution if stride is 2."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, out_dim, 1)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, stride=stride, padding=1, groups=out_dim)
        self.conv3 = nn.Conv2d(out_dim, out_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Multi-head self-attention inside one window, with a bias per head and absolute offset."""

    offsets: Tensor

    def __init__(self, dim: int, window: int) -> None:
        super().__init__()
        self.heads = dim // _HEAD_DIM
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(self.heads, window * window))
        place = torch.arange(window * window)
        rows, columns = place // window, place % window
        apart = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        self.register_buffer("offsets", apart, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (windows, tokens, D) -> the same shape."""
        windows, tokens, dim = x.shape
        qkv = self.qkv(self.norm(x)).view(windows, tokens, self.heads, 3 * _HEAD_DIM)
        query, key, value = qkv.transpose(1, 2).split(_HEAD_DIM, dim=3)
        bias = self.attention_biases[:, self.offsets]  # (heads, tokens, tokens)
        scores = query @ key.transpose(2, 3) * _HEAD_DIM**-0.5 + bias
        mixed = torch.softmax(scores, dim=3).to(value.dtype) @ value  # (windows, heads, tokens, 32)
        return self.proj(mixed.transpose(1, 2).reshape(windows, tokens, dim))


class Mlp(nn.Module):
    """Pre-norm two-layer perceptron."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim * _MLP_RATIO)
        self.fc2 = nn.Linear(dim * _MLP_RATIO, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    """Windowed attention, a depthwise convolution that joins windows, and an MLP."""

    def __init__(self, dim: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(dim, window)
        self.local_conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, D, rows, columns) -> the same shape."""
        x = x + self._attend(x)
        x = self.local_conv(x).to(x.dtype)  # the residual stream keeps its precision
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        # Zeros fill the last windows and take part in attention, as they did in training.
        batch, dim, rows, columns = x.shape
        side = self.window
        # Rounded up without a negative number: ONNX divides toward zero, Python rounds down.
        down, across = (rows + side - 1) // side, (columns + side - 1) // side
        filled = F.pad(x, (0, across * side - columns, 0, down * side - rows))
        tiles = filled.view(batch, dim, down, side, across, side).permute(0, 2, 4, 3, 5, 1)
        mixed = self.attn(tiles.reshape(-1, side * side, dim))
        tiles = mixed.view(batch, down, across, side, side, dim).permute(0, 5, 1, 3, 2, 4)
        return tiles.reshape(batch, dim, down * side, across * side)[:, :, :rows, :columns]


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of a (B, D, rows, columns) map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        shape = self.weight.shape
        pixels = x.permute(0, 2, 3, 1).to(self.weight.dtype)
        normed = F.layer_norm(pixels, shape, self.weight, self.bias, eps=1e-6)
        return normed.permute(0, 3, 1, 2)


class TinyViT(PixelEncoder):
    """uint8 pixels -> four levels at strides 4, 8, 16, 16 with 64, 128, 160, 256 channels."""

    def __init__(self) -> None:
        super().__init__()
        first = STAGES[0].channels
        self.patch_embed = nn.ModuleList(
            (
                nn.Conv2d(3, first // 2, 3, stride=2, padding=1),
                nn.Conv2d(first // 2, first, 3, stride=2, padding=1),
            )
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    MBConv(stage.channels)
                    if stage.window is None
                    else Block(stage.channels, stage.window)
                    for _ in range(stage.blocks)
                )
            )
            for stage in STAGES
        )
        strides = [after // before for before, after in pairwise(LEVEL_STRIDES)]
        self.merges = nn.ModuleList(
            PatchMerging(before.channels, after.channels, stride)
            for before, after, stride in zip(STAGES[:-1], STAGES[1:], strides, strict=True)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(STAGES[3].channels, NECK_CHANNELS, 1, bias=False),
            LayerNorm2d(NECK_CHANNELS),
            nn.Conv2d(NECK_CHANNELS, NECK_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(NECK_CHANNELS),
        )

    def forward(
        self, image: Tensor, _pos_rows: Tensor | None = None, _pos_cols: Tensor | None = None
    ) -> list[Tensor]:
        """image (B, h, w, 3) uint8 RGB, h and w multiples of 16. The positions are not needed.

        Returns (B, 64, h/4, w/4), (B, 128, h/8, w/8), (B, 160, h/16, w/16), (B, 256, h/16, w/16).
        """
        x = self.patch_embed[1](F.gelu(self.patch_embed[0](self.normalised(image))))
        levels = []
        for number, stage in enumerate(self.stages):
            if number:
                x = self.merges[number - 1](x)
            x = stage(x.to(self.mean.dtype))
            levels.append(x)
        return [*levels[:3], self.neck(x)]
