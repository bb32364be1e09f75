"""The cut: the same network in two halves, everything a click cannot change in the first.

Each rewrite is exact in real arithmetic and can be switched off alone, so that tests and the
FLOP table (`ois bench flops`) show what it does:

    R1 laterals         levels that no click reaches go through their residual unit once
    R2 project_first    each refinenet's 1x1 convolution runs before its upsampling
    R3 split_linear     a fused level's linear chain runs once on the image and, folded with
                        the injection, on the prompt features alone; the two are added
    R4 cached_kv        K and V of the image part are projected once; a click adds only its
                        disks' part (costs memory: 12 C numbers a patch)
    R5 shared_bias      M and B are built once a click, before the head axis
    R6 local_disks      the dense embedding is computed only in the patches its disks touch

The halves pass an image state: named tensors with batch 1, broadcast over N objects.

    depth (1, h, w), depth_min (1), depth_max (1)   raw inverse depth; min-max is applied per
                                                    click (TensorRT mis-fuses it, DESIGN §4)
    grid_depth (1, gh, gw)                          its mean over each patch
    features (1, K, C), position (1, K, C)          F and its patches' positions
    keys_values (blocks, 4, K, C)                   R4: [K, V] of both attentions of each block
    tokens<l> | image<l> | lateral<l>               level l: untouched | R3's image part | R1
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ois_network.config import ImageUpdate, NetworkConfig
from ois_network.kernels.slots import Rows, SlotBias, Slots, Touched, visible_bits
from ois_network.network import OISNetwork
from ois_network.order import (
    blocked_keys,
    coverage_of_logits,
    order_maps,
    pool_to_grid,
    relative_depth,
    sample_bilinear,
    slot_depths,
)


@dataclass(frozen=True, slots=True)
class Rewrites:
    """Which exact rewrites are on; see the module's table."""

    laterals: bool = True
    project_first: bool = True
    split_linear: bool = True
    cached_kv: bool = False
    shared_bias: bool = True
    local_disks: bool = True

    @classmethod
    def none(cls) -> Rewrites:
        return cls(*([False] * 6))

    def effective(self, config: NetworkConfig) -> Rewrites:
        """Without the rewrites that this network cannot have."""
        no_cache = config.image_update is ImageUpdate.EACH_BLOCK or not config.sparse
        cached = self.cached_kv and not no_cache and not config.depth_encoder
        return Rewrites(
            self.laterals,
            self.project_first,
            self.split_linear,
            cached,
            self.shared_bias,
            self.local_disks,
        )


class LevelForm(Enum):
    """In which form a level of the mask head crosses the cut."""

    TOKENS = "tokens"
    IMAGE = "image"
    LATERAL = "lateral"


def level_forms(config: NetworkConfig, rewrites: Rewrites) -> dict[int, LevelForm]:
    forms: dict[int, LevelForm] = {}
    for level in (1, 2, 3, 4):
        if level in config.fused_levels:
            forms[level] = LevelForm.IMAGE if rewrites.split_linear else LevelForm.TOKENS
        else:
            forms[level] = LevelForm.LATERAL if rewrites.laterals else LevelForm.TOKENS
    return forms


class ImageEncoder(nn.Module):
    """Image -> image state. Runs once an image."""

    def __init__(self, network: OISNetwork, rewrites: Rewrites | None = None) -> None:
        super().__init__()
        self.network = network
        self.rewrites = (rewrites or Rewrites()).effective(network.config)
        self.forms = level_forms(network.config, self.rewrites)

    def forward(self, image: Tensor, pos_rows: Tensor, pos_cols: Tensor) -> dict[str, Tensor]:
        """image (h, w, 3) uint8 RGB, pos_rows (gh, T), pos_cols (gw, T) -> image state."""
        network, config = self.network, self.network.config
        levels = network.encoder(image.unsqueeze(0), pos_rows, pos_cols)
        depth = F.relu(
            network.depth_head(levels, project_first=self.rewrites.project_first)
        )  # (1, h, w)
        state = {
            "depth": depth,
            "depth_min": depth.amin((1, 2)),
            "depth_max": depth.amax((1, 2)),
        }
        if config.order and config.sparse:
            state["grid_depth"] = pool_to_grid(depth, config.patch)
        features = network.project(levels[3].flatten(2).transpose(1, 2))  # (1, K, C)
        state["features"] = features
        if network.fusion is not None:
            rows, columns = levels[3].shape[-2:]
            state["position"] = network.position.grid(rows, columns, config.patch)
            if self.rewrites.cached_kv:
                state["keys_values"] = torch.stack(
                    [
                        torch.cat(block.project(features + state["position"], features))
                        for block in network.fusion.block_list()
                    ]
                )  # (blocks, 4, K, C)
        for level, form in self.forms.items():
            state[f"{form.value}{level}"] = self._level(level, form, levels[level - 1])
        return state

    def _level(self, level: int, form: LevelForm, tokens: Tensor) -> Tensor:
        if form is LevelForm.TOKENS:
            return tokens
        head = self.network.mask_head
        reassembled = head.reassemble(level, tokens)
        if form is LevelForm.IMAGE or level == 4:
            return reassembled  # level 4 has no residual unit of its own
        return head.refinenet(level).lateral(reassembled)


class PromptPath(nn.Module):
    """R3: the injection and a level's linear chain as one chain on the prompt features.

    `inject` (1x1, no bias) and `projects` (1x1) fold into the next convolution: nothing of
    theirs crosses its zero padding, and all biases belong to the image part.
    """

    def __init__(self, network: OISNetwork, level: int) -> None:
        super().__init__()
        head = network.mask_head
        self.level = level
        projects = head.projects[level - 1].get_parameter("weight")
        inject = network.injection(level).weight[:, :, 0, 0].double()  # (D, C)
        project = projects[:, :, 0, 0].double() @ inject  # (c, C)
        rn = head.layer_rn(level).weight.double()  # (f, c, 3, 3)
        if level == 3:
            self.register_buffer("first", torch.einsum("fcij,cp->fpij", rn, project).float())
            return
        resize = head.resize_layers[level - 1].get_parameter("weight").double()
        if level == 4:  # Conv2d: (out, in, 3, 3)
            folded = torch.einsum("ocij,cp->opij", resize, project)
        else:  # ConvTranspose2d: (in, out, k, k)
            folded = torch.einsum("coij,cp->poij", resize, project)
        self.register_buffer("first", folded.float())
        self.register_buffer("rn", rn.float())

    first: Tensor
    rn: Tensor

    def forward(self, grid: Tensor) -> Tensor:
        """grid F' (N, C, gh, gw) -> the prompt's part of the reassembled level."""
        if self.level == 3:
            return F.conv2d(grid, self.first, padding=1)
        if self.level == 4:
            hidden = F.conv2d(grid, self.first, stride=2, padding=1)
        else:
            hidden = F.conv_transpose2d(grid, self.first, stride=4 if self.level == 1 else 2)
        return F.conv2d(hidden, self.rn, padding=1)


class ClickDecoder(nn.Module):
    """Image state + prompts -> logits and the new mask's coverage. Runs every click."""

    def __init__(self, network: OISNetwork, rewrites: Rewrites | None = None) -> None:
        super().__init__()
        self.network = network
        self.rewrites = (rewrites or Rewrites()).effective(network.config)
        self.forms = level_forms(network.config, self.rewrites)
        self.prompt_paths = nn.ModuleDict(
            {
                str(level): PromptPath(network, level)
                for level, form in self.forms.items()
                if form is LevelForm.IMAGE
            }
        )

    def forward(
        self,
        state: dict[str, Tensor],
        points: Tensor,
        labels: Tensor,
        coverage: Tensor,
        has_previous: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns logits (N, h, w) and coverage (N, gh, gw) uint8 of logits > 0.

        points (N, 48, 2) network pixels, labels (N, 48) int32, coverage (N, gh, gw) uint8,
        has_previous (N) bool.
        """
        patch = self.network.config.patch
        rows, columns = coverage.shape[1:]
        fused = self._fuse(state, points, labels, coverage, has_previous)  # (N, K, C)
        grid = fused.transpose(1, 2).unflatten(2, (rows, columns))
        head = self.network.mask_head
        maps = {level: self._level(level, form, state, grid) for level, form in self.forms.items()}
        path = head.refine(maps.pop(4), maps, project_first=self.rewrites.project_first)
        logits = head.predict(path, rows * patch, columns * patch)
        return logits, coverage_of_logits(logits, patch)

    def _level(self, level: int, form: LevelForm, state: dict[str, Tensor], grid: Tensor) -> Tensor:
        """Level 4 reassembled, other levels through their first residual unit."""
        head = self.network.mask_head
        stored = state[f"{form.value}{level}"]
        if form is LevelForm.LATERAL:
            return stored
        if form is LevelForm.IMAGE:
            # The N rows first: OpenVINO fuses this sum into the convolution and takes its batch
            # from the left operand.
            reassembled = self.prompt_paths[str(level)](grid) + stored
        else:
            if level in self.network.config.fused_levels:
                stored = stored + self.network.injection(level)(grid)
            reassembled = head.reassemble(level, stored)
        return reassembled if level == 4 else head.refinenet(level).lateral(reassembled)

    def _fuse(
        self,
        state: dict[str, Tensor],
        points: Tensor,
        labels: Tensor,
        coverage: Tensor,
        has_previous: Tensor,
    ) -> Tensor:
        network = self.network
        n = points.shape[0]
        rows, columns = coverage.shape[1:]
        image = state["features"]
        lowest, highest = state["depth_min"], state["depth_max"]
        if network.depth_encoder is not None:
            depth = relative_depth(state["depth"], lowest, highest)
            image = image + network.depth_encoder(depth)
        features = image.expand(n, -1, -1)
        index = embedding = None
        if network.dense is not None:
            if self.rewrites.local_disks:
                index, embedding = network.dense.local(points, labels, rows, columns)
                features = add_at(features, index, embedding)
            else:
                features = features + network.dense(points, labels, rows, columns)
        if network.fusion is None or network.sparse is None:
            return features
        tokens = network.sparse(network.position(points), labels)
        if (
            self.rewrites.cached_kv
            and index is not None
            and embedding is not None
            and network.fusion.takes_slots(tokens, rows * columns)
        ):
            slots = self._slots(state, points, labels, coverage, has_previous)
            slots = replace(slots, touched=Touched.of(index, embedding, slots.keys))
            biases = SlotBias(slots), SlotBias(slots, allow=True)
            cached = self._cached_rows(state, embedding)
            return network.fusion(tokens, features, state["position"], *biases, cached)
        order, allow = self._biases(state, points, labels, coverage, has_previous)
        projected = self._cached(state, features, index, embedding)
        return network.fusion(tokens, features, state["position"], order, allow, projected)

    def _biases(
        self,
        state: dict[str, Tensor],
        points: Tensor,
        labels: Tensor,
        coverage: Tensor,
        has_previous: Tensor,
    ) -> tuple[Tensor | None, Tensor | None]:
        network, config = self.network, self.network.config
        if not self.rewrites.shared_bias:
            depth = relative_depth(state["depth"], state["depth_min"], state["depth_max"])
            return network.attention_biases(depth, points, labels, coverage, has_previous)
        order = allow = None
        if config.order:
            grid, centres = self._depths(state, points, labels)
            order = order_maps(grid, centres, labels).unsqueeze(1)  # (N, 1, 48, K)
        if config.object and network.fusion is not None:
            blocked = blocked_keys(coverage, has_previous, labels).unsqueeze(1)
            masked = network.fusion.masked_logit
            allow = torch.where(blocked, masked, 0.0).to(state["features"].dtype)
        return order, allow

    def _depths(
        self, state: dict[str, Tensor], points: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """D of each patch (1, K), and the D that each slot's order map is centred on (N, 48)."""
        lowest, highest = state["depth_min"], state["depth_max"]
        # Sampling, pooling and D are linear: normalise the few numbers that are needed.
        raw = sample_bilinear(state["depth"], points)
        centres = slot_depths(relative_depth(raw, lowest, highest), labels)
        return relative_depth(state["grid_depth"].flatten(1), lowest, highest), centres

    def _slots(
        self,
        state: dict[str, Tensor],
        points: Tensor,
        labels: Tensor,
        coverage: Tensor,
        has_previous: Tensor,
    ) -> Slots:
        """What M and B are made of, as the kernels take it: what `_biases` would write out."""
        config, keys = self.network.config, coverage[0].numel()
        depth = centres = visible = None
        if config.order:
            depth, centres = self._depths(state, points, labels)
        if config.object:
            visible = visible_bits(coverage, has_previous)
        return Slots(labels.to(torch.int32), keys, depth, centres, visible)

    def _cached(
        self,
        state: dict[str, Tensor],
        features: Tensor,
        index: Tensor | None,
        embedding: Tensor | None,
    ) -> list[list[Tensor]] | None:
        """R4: cached K and V plus the disks' part, which is zero outside a few patches."""
        if not self.rewrites.cached_kv or self.network.fusion is None:
            return None
        n = features.shape[0]
        projected = []
        for stored, layers in self._stored(state):
            pairs = []
            for base, layer in zip(stored, layers, strict=True):
                if index is not None and embedding is not None:
                    # The bias is in the stored part.
                    part = F.linear(embedding.to(layer.weight.dtype), layer.weight)
                    base = add_at(base.expand(n, -1, -1), index, part)
                elif self.network.dense is not None:
                    disks = (features - state["features"]).to(layer.weight.dtype)
                    base = base + F.linear(disks, layer.weight)
                pairs.append(base)
            projected.append(pairs)
        return projected

    def _cached_rows(self, state: dict[str, Tensor], embedding: Tensor) -> list[list[Rows]]:
        """What `_cached` would write out."""
        return [
            [
                Rows(base, F.linear(embedding.to(layer.weight.dtype), layer.weight))
                for base, layer in zip(stored, layers, strict=True)
            ]
            for stored, layers in self._stored(state)
        ]

    def _stored(self, state: dict[str, Tensor]) -> Iterator[tuple[list[Tensor], list[nn.Linear]]]:
        """Of each block: cached [K, V] of both attentions, each (1, K, C), and their layers."""
        if self.network.fusion is None:
            return
        for number, block in enumerate(self.network.fusion.block_list()):
            stored = list(state["keys_values"][number].unsqueeze(1))
            order, objects = block.order_attention, block.object_attention
            yield stored, [order.key, order.value, objects.key, objects.value]


def add_at(base: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """base (N, K, C) with values (N, P, C) added at rows index (N, P); base is not changed."""
    rows = index.unsqueeze(2).expand(-1, -1, base.shape[2])
    return base.scatter_add(1, rows, values.to(base.dtype))
