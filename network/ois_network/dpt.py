"""The DPT head of Depth-Anything-V2: four encoder levels -> one map at full resolution.

OIS has two of them: the frozen depth head, and the mask head, which is initialised from it and has
no final ReLU, so that logits can be negative (paper §4.1). Parameter names are those of
Depth-Anything-V2 below `depth_head.`.

    level l: projects (1x1) -> resize -> layer_rn (3x3)      x4, x2, x1, x1/2 of the patch grid
    refinenet4 <- level 4; refinenet3 <- its output + level 3; ... up to refinenet1
    output_conv1 -> bilinear to (h, w) -> output_conv2

With `output_stride` 2, `output_conv2` runs at half of (h, w), and its result is enlarged. With
`detail_channels`, the mask head's `output_conv2` reads a map that `detail.py` has refined.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ois_network.config import NetworkConfig


def upsample(x: Tensor, height: int, width: int, *, aligned: bool) -> Tensor:
    """Bilinear resize. aligned: see `NetworkConfig.aligned_corners`."""
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=aligned)


class ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(F.relu(x)))) + x


class FeatureFusion(nn.Module):
    """A refinenet: adds a level to the coarser path, refines and upsamples."""

    def __init__(self, features: int, *, aligned: bool) -> None:
        super().__init__()
        self.aligned = aligned
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def lateral(self, level: Tensor) -> Tensor:
        """The residual unit of the level, which depends on nothing else (rewrite R1)."""
        return self.resConfUnit1(level)

    def merge(self, x: Tensor, height: int, width: int, *, project_first: bool) -> Tensor:
        """x (B, f, a, b) -> (B, f, height, width).

        project_first: run the 1x1 convolution before the upsampling (rewrite R2). They commute,
        because bilinear weights sum to one.
        """
        x = self.resConfUnit2(x)
        if project_first:
            return upsample(self.out_conv(x), height, width, aligned=self.aligned)
        return self.out_conv(upsample(x, height, width, aligned=self.aligned))


class Scratch(nn.Module):
    """Depth-Anything-V2's name for the part of the head that is trained from scratch."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        features = config.head_features
        for level, channels in enumerate(config.head_channels, start=1):
            layer = nn.Conv2d(channels, features, 3, padding=1, bias=False)
            self.add_module(f"layer{level}_rn", layer)
            self.add_module(
                f"refinenet{level}", FeatureFusion(features, aligned=config.aligned_corners)
            )
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
        )


def _upsampling(channels: int, factor: int) -> nn.Module:
    """A learned upsampling; none for a level that has the resolution already."""
    if factor == 1:
        return nn.Identity()
    return nn.ConvTranspose2d(channels, channels, factor, stride=factor)


class DPTHead(nn.Module):
    """Four levels (B, D, gh, gw) -> one map (B, h, w), without the final ReLU."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.patch, self.output_stride = config.patch, config.output_stride
        self.aligned = config.aligned_corners
        channels = config.head_channels
        self.projects = nn.ModuleList(
            nn.Conv2d(given, c, 1) for given, c in zip(config.level_channels, channels, strict=True)
        )
        # Levels 1 to 3 leave at 4, 2 and 1 times the patch grid, level 4 at half of it.
        self.resize_layers = nn.ModuleList(
            (
                _upsampling(channels[0], 4 // config.level_scales[0]),
                _upsampling(channels[1], 2 // config.level_scales[1]),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            )
        )
        self.scratch = Scratch(config)

    def reassemble(self, level: int, tokens: Tensor) -> Tensor:
        """Level 1 to 4: tokens (B, D, gh, gw) -> (B, f, .., ..), by linear layers only."""
        resized = self.resize_layers[level - 1](self.projects[level - 1](tokens))
        return self.layer_rn(level)(resized)

    def refine(
        self, reassembled: Tensor, laterals: dict[int, Tensor], *, project_first: bool = False
    ) -> Tensor:
        """The path through the refinenets: (B, f/2, ..).

        reassembled: level 4 after `reassemble`. laterals: levels 1 to 3, also after `lateral`.
        """
        path = self.trunk(reassembled, laterals, project_first=project_first)
        return self.last_refinenet(path, project_first=project_first)

    def trunk(
        self, reassembled: Tensor, laterals: dict[int, Tensor], *, project_first: bool = False
    ) -> Tensor:
        """The path through refinenets 4 to 2, with level 1 added: (B, f, ..), at level 1's size."""
        path = reassembled
        for level in (4, 3, 2):
            height, width = laterals[level - 1].shape[-2:]
            path = self.refinenet(level).merge(path, height, width, project_first=project_first)
            path = path + laterals[level - 1]
        return path

    def last_refinenet(self, path: Tensor, *, project_first: bool = False) -> Tensor:
        """The result of `trunk` -> (B, f/2, ..), at twice the size."""
        height, width = 2 * path.shape[-2], 2 * path.shape[-1]
        path = self.refinenet(1).merge(path, height, width, project_first=project_first)
        return self.scratch.output_conv1(path)

    def at_output_stride(self, path: Tensor, height: int, width: int) -> Tensor:
        """The result of `refine` -> (B, f/2, height / output_stride, width / output_stride)."""
        stride = self.output_stride
        if self.patch == 8 * stride:
            return path  # at 8 times the grid, it has the size already
        return upsample(path, height // stride, width // stride, aligned=self.aligned)

    def predict(self, path: Tensor, height: int, width: int) -> Tensor:
        """The result of `at_output_stride` -> (B, height, width)."""
        logits = self.scratch.output_conv2(path)
        if self.output_stride > 1:
            logits = upsample(logits, height, width, aligned=self.aligned)
        return logits[:, 0]

    def forward(
        self,
        levels: list[Tensor],
        fine: dict[int, Tensor] | None = None,
        detail: Callable[[Tensor], Tensor] | None = None,
        *,
        project_first: bool = False,
    ) -> Tensor:
        """levels: four (B, D, gh, gw) -> (B, gh*patch, gw*patch).

        fine: of `FinePrompts`; added to levels after their residual unit. detail: changes the map
        that the last convolutions read, see `detail.py`.
        """
        maps = {n: self.reassemble(n, tokens) for n, tokens in enumerate(levels, start=1)}
        laterals = {n: self.refinenet(n).lateral(maps[n]) for n in (1, 2, 3)}
        for level, added in (fine or {}).items():
            laterals[level] = laterals[level] + added
        path = self.refine(maps[4], laterals, project_first=project_first)
        rows, columns = levels[3].shape[-2:]
        height, width = rows * self.patch, columns * self.patch
        path = self.at_output_stride(path, height, width)
        return self.predict(path if detail is None else detail(path), height, width)

    def layer_rn(self, level: int) -> nn.Conv2d:
        layer: nn.Conv2d = getattr(self.scratch, f"layer{level}_rn")
        return layer

    def refinenet(self, level: int) -> FeatureFusion:
        fusion: FeatureFusion = getattr(self.scratch, f"refinenet{level}")
        return fusion
