"""The OIS network as the paper describes it, from image to mask in one file.

It has no cache and no rewrite, so it is slow. It is the reference that `split.py`, every engine
and every kernel are compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ois_client.contract.clicks import Prompts
from ois_network.config import NetworkConfig
from ois_network.depth_encoder import DepthEncoder
from ois_network.detail import Detail
from ois_network.dpt import DPTHead
from ois_network.encoders import build_encoder
from ois_network.fusion import Fusion
from ois_network.keep_clicks import keep_clicks
from ois_network.order import (
    blocked_keys,
    grid_coverage,
    order_maps,
    pool_to_grid,
    relative_depth,
    sample_bilinear,
    slot_depths,
)
from ois_network.prompt_encoders import (
    DensePrompts,
    FinePrompts,
    FourierPosition,
    PreviousMask,
    SparsePrompts,
)


def on_grid(prompts: Prompts[Tensor], config: NetworkConfig) -> Prompts[Tensor]:
    """The prompts with the coverage of whole patches, as attention uses it."""
    if config.coverage_scale == 1:
        return prompts
    return replace(prompts, coverage=grid_coverage(prompts.coverage, config.coverage_scale))


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What is computed once per image, for a batch of images.

    levels: four tensors, the last (B, D, gh, gw) on the patch grid, the others on it or finer.
    depth: (B, h, w), raw inverse depth, larger = nearer. detail: of `Detail`, if there is one.
    """

    levels: list[Tensor]
    depth: Tensor
    detail: Tensor | None

    @property
    def grid(self) -> tuple[int, int]:
        """(gh, gw)."""
        rows, columns = self.levels[3].shape[-2:]
        return rows, columns


class OISNetwork(nn.Module):
    """Encoder and depth head (frozen in the paper), prompt encoders, fusion, mask head."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.prompt_dim
        self.encoder = build_encoder(config)
        self.depth_head = DPTHead(config)
        self.mask_head = DPTHead(config)
        self.project = nn.Linear(config.level_channels[3], dim)
        self.position = FourierPosition(dim, config.position_longest or config.longest)
        self.sparse = SparsePrompts(config) if config.sparse else None
        self.dense = DensePrompts(config) if config.dense else None
        self.previous_mask = PreviousMask(config) if config.previous_mask else None
        self.fine_prompts = FinePrompts(config) if config.fine_prompts else None
        self.detail = Detail(config) if config.detail_channels else None
        self.fusion = Fusion(config) if config.sparse else None
        self.depth_encoder = DepthEncoder(config) if config.depth_encoder else None
        # How the fused features enter the mask head. No bias, and zero at first: before training
        # the mask head computes what the depth head computes.
        self.inject = nn.ModuleDict(
            {
                str(level): nn.Conv2d(dim, config.level_channels[level - 1], 1, bias=False)
                for level in config.fused_levels
            }
        )

    def encode(self, image: Tensor, pos_rows: Tensor, pos_cols: Tensor) -> ImageFeatures:
        """Encode images; T is the side of the encoder's position table.

        image (B, h, w, 3) uint8 RGB; pos_rows (gh, T), pos_cols (gw, T): see
        `Geometry.position_matrices`.
        """
        levels = self.encoder(image, pos_rows, pos_cols)
        depth = F.relu(self.depth_head(levels))
        return ImageFeatures(levels, depth, self.details(image))

    def details(self, image: Tensor) -> Tensor | None:
        """The map of details of images (B, h, w, 3) uint8 RGB, or None."""
        return None if self.detail is None else self.detail(self.encoder.normalised(image))

    def merger(self, details: Tensor | None) -> Callable[[Tensor], Tensor] | None:
        """What shows the mask head the map of `details`; None for a network without it."""
        if self.detail is None:
            return None
        if details is None:
            raise TypeError("a network with details needs their map; see `OISNetwork.encode`")
        return partial(self.detail.merge, detail=details)

    def click(self, features: ImageFeatures, prompts: Prompts[Tensor]) -> Tensor:
        """Mask logits (N, h, w) at network size; positive = object.

        features: of N images, or of one image that N objects share. prompts: of N objects.
        """
        fused = self.fuse(features, prompts)  # (N, K, C)
        rows, columns = features.grid
        grid = fused.transpose(1, 2).unflatten(2, (rows, columns))
        levels = [
            level + self.injection(n)(grid)
            if n in self.config.fused_levels
            else level.expand(len(prompts.points), -1, -1, -1)
            for n, level in enumerate(features.levels, start=1)
        ]
        fine = self.fine_prompts(*prompts) if self.fine_prompts is not None else None
        logits = self.mask_head(levels, fine, self.merger(features.detail))
        if self.config.keep_clicks:
            logits = keep_clicks(logits, prompts.points, prompts.labels)
        return logits

    def fuse(self, features: ImageFeatures, prompts: Prompts[Tensor]) -> Tensor:
        """The image features after they have attended to the clicks: F' (N, K, C)."""
        prompts = on_grid(prompts, self.config)
        rows, columns = features.grid
        points, labels = prompts.points, prompts.labels
        n = points.shape[0]
        image = self.project(features.levels[3].flatten(2).transpose(1, 2))  # (B, K, C)
        depth = relative_depth(
            features.depth, features.depth.amin((1, 2)), features.depth.amax((1, 2))
        )
        position = self.position.grid(rows, columns, self.config.patch)
        if self.depth_encoder is not None:
            image = self.depth_encoder(image, depth, position)
        image = image.expand(n, -1, -1)
        if self.dense is not None:
            image = image + self.dense(points, labels, rows, columns)
        if self.previous_mask is not None:
            image = image + self.previous_mask(prompts.coverage, prompts.has_previous)
        if self.sparse is None or self.fusion is None:
            return image
        tokens = self.sparse(self.position(points), labels)
        order, allow = self.attention_biases(depth, prompts)
        return self.fusion(tokens, image, position, order, allow)

    def attention_biases(
        self, depth: Tensor, prompts: Prompts[Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """M and B of Equations 3 and 4, each (N, heads, 48, K), or None where it is ablated.

        depth: D (B, h, w), B is N or 1. prompts: `on_grid`.
        """
        order = allow = None
        labels = prompts.labels
        heads = self.config.fusion_heads
        if self.config.uses_order_maps:
            grid_depth = pool_to_grid(depth, self.config.patch).flatten(1)
            centres = slot_depths(sample_bilinear(depth, prompts.points), labels)
            maps = order_maps(grid_depth, centres, labels)
            order = maps.unsqueeze(1).repeat(1, heads, 1, 1)
        if self.config.uses_object_masks and self.fusion is not None:
            blocked = blocked_keys(
                prompts.coverage, prompts.has_previous, labels, empty=self.config.mask_empty_slots
            )
            blocked = blocked.unsqueeze(1).repeat(1, heads, 1, 1)
            allow = torch.where(blocked, self.fusion.masked_logit, 0.0).to(depth.dtype)
        return order, allow

    def injection(self, level: int) -> nn.Conv2d:
        """P_l, the layer through which the fused features enter level `level` of the mask head."""
        layer = self.inject[str(level)]
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"injection {level} is {type(layer).__name__}")
        return layer

    def forward(
        self,
        image: Tensor,
        pos_rows: Tensor,
        pos_cols: Tensor,
        points: Tensor,
        labels: Tensor,
        coverage: Tensor,
        has_previous: Tensor,
    ) -> Tensor:
        """Mask logits (N, h, w) of images and clicks: `encode`, then `click`."""
        features = self.encode(image, pos_rows, pos_cols)
        return self.click(features, Prompts(points, labels, coverage, has_previous))
