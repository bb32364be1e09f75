"""The network in two halves: `ImageEncoder` runs once per image, `ClickDecoder` on every click.

The first half computes everything that a click cannot change. Each rewrite is exact in real
arithmetic and has its own switch, so that tests and `ois bench flops` can show its effect:

    R1 laterals         levels that no click reaches pass their residual unit once per image
    R2 project_first    each refinenet's 1x1 convolution runs before its upsampling
    R3 split_linear     the linear layers of a fused level run once on the image and, folded with
                        the injection, on the prompt features; the two results are added
    R4 cached_kv        K and V of the image features are projected once per image; a click adds
                        the part of its disks and mask (memory: 12 C numbers per patch)
    R5 shared_bias      M and B are built once per click, for all heads
    R6 local_disks      the dense embedding is computed only in patches that a disk touches
    R7 few_slots        S slots instead of 48, of which an empty one stands for several: they are
                        equal, and stay so, because no token attends to another
    R8 project_tokens   the projections between image features and tokens are applied to the
                        tokens, of which there are few

The image state that connects the halves is a dict of tensors with batch 1, which broadcast over
N objects:

    depth (1, h, w), depth_min (1), depth_max (1)   raw inverse depth; min-max is applied per
                                                    click, because TensorRT fuses it wrongly
    grid_depth (1, gh, gw)                          mean of depth over each patch
    features (1, K, C), position (1, K, C)          F and the positions of its patches
    keys_values (blocks, 4, K, C)                   R4: [K, V] of both attentions of each block;
                                                    2 instead of 4 if one of them is removed
    detail<s> (1, d, h/s, w/s)                      of `Detail`, s = `output_stride`
    tokens<l> | image<l> | lateral<l>               level l: encoder output | R3's image part |
                                                    after R1
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ois_client.contract.clicks import SLOTS, Prompts
from ois_network.config import FINE_SCALE, ImageUpdate, NetworkConfig
from ois_network.keep_clicks import keep_clicks
from ois_network.kernels.slots import Rows, SlotBias, Slots, Touched, visible_bits
from ois_network.network import OISNetwork, on_grid
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
    """Which of the exact rewrites are on; see the table at the top of this file."""

    laterals: bool = True
    project_first: bool = True
    split_linear: bool = True
    cached_kv: bool = False
    shared_bias: bool = True
    local_disks: bool = True
    few_slots: bool = False
    project_tokens: bool = False

    @classmethod
    def none(cls) -> Rewrites:
        """All off."""
        return cls(**{each.name: False for each in fields(cls)})

    def effective(self, config: NetworkConfig) -> Rewrites:
        """These rewrites without the ones that are impossible for `config`."""
        attends = config.sparse and (config.order_attention or config.object_attention)
        # Object masks that cover empty slots make those of the two halves different.
        equal = config.sparse and not (config.uses_object_masks and config.mask_empty_slots)
        return replace(
            self,
            cached_kv=self.cached_kv and attends and config.image_update is ImageUpdate.ONCE,
            few_slots=self.few_slots and self.project_tokens and equal,
            project_tokens=self.project_tokens and config.sparse,
        )


class LevelForm(Enum):
    """The form in which the image state holds a level of the mask head."""

    TOKENS = "tokens"
    IMAGE = "image"
    LATERAL = "lateral"


def detail_name(config: NetworkConfig) -> str:
    """The name of the map of details in the image state; it says the map's stride."""
    return f"detail{config.output_stride}"


def level_forms(config: NetworkConfig, rewrites: Rewrites) -> dict[int, LevelForm]:
    """The form of each level, 1 to 4."""
    forms: dict[int, LevelForm] = {}
    for level in (1, 2, 3, 4):
        if level in config.fused_levels:
            forms[level] = LevelForm.IMAGE if rewrites.split_linear else LevelForm.TOKENS
        else:
            forms[level] = LevelForm.LATERAL if rewrites.laterals else LevelForm.TOKENS
    return forms


class ImageEncoder(nn.Module):
    """Image -> image state; runs once per image."""

    def __init__(self, network: OISNetwork, rewrites: Rewrites | None = None) -> None:
        super().__init__()
        self.network = network
        self.rewrites = (rewrites or Rewrites()).effective(network.config)
        self.forms = level_forms(network.config, self.rewrites)

    def forward(self, image: Tensor, pos_rows: Tensor, pos_cols: Tensor) -> dict[str, Tensor]:
        """The image state of image (h, w, 3) uint8 RGB; pos_rows (gh, T), pos_cols (gw, T)."""
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
        if config.uses_order_maps:
            state["grid_depth"] = pool_to_grid(depth, config.patch)
        features = network.project(levels[3].flatten(2).transpose(1, 2))  # (1, K, C)
        rows, columns = levels[3].shape[-2:]
        position = network.position.grid(rows, columns, config.patch)
        if network.depth_encoder is not None:
            normalised = relative_depth(depth, state["depth_min"], state["depth_max"])
            features = network.depth_encoder(features, normalised, position)
        state["features"] = features
        if network.fusion is not None:
            state["position"] = position
            if self.rewrites.cached_kv:
                state["keys_values"] = torch.stack(
                    [
                        torch.cat(block.project(features + position, features))
                        for block in network.fusion.block_list()
                    ]
                )  # (blocks, 4 or 2, K, C)
        details = network.details(image.unsqueeze(0))
        if details is not None:
            state[detail_name(config)] = details
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
    """Rewrite R3: the injection and the linear layers of a level, on the prompt features alone.

    `inject` and `projects` are 1x1 convolutions, so they fold into the next convolution, zero
    padding included. They add no bias here: all biases are in the image part.
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
        """The prompt's part of the reassembled level, from grid F' (N, C, gh, gw)."""
        if self.level == 3:
            return F.conv2d(grid, self.first, padding=1)
        if self.level == 4:
            hidden = F.conv2d(grid, self.first, stride=2, padding=1)
        else:
            hidden = F.conv_transpose2d(grid, self.first, stride=4 if self.level == 1 else 2)
        return F.conv2d(hidden, self.rn, padding=1)


class ClickDecoder(nn.Module):
    """Image state and prompts -> logits and coverage of the new mask; runs on every click."""

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
        """Logits (N, h, w), and the coverage of the mask logits > 0, shaped as the one given.

        The four tensors are those of `Prompts`: exported graphs need single inputs. With R7, any
        even number of slots per object, of which at least one is empty; or 48.
        """
        config = self.network.config
        path = self.path(state, points, labels, coverage, has_previous)
        logits = self.predict(path, state)
        if config.keep_clicks:
            logits = keep_clicks(logits, points, labels)
        return logits, coverage_of_logits(logits, config.coverage_stride)

    def path(
        self,
        state: dict[str, Tensor],
        points: Tensor,
        labels: Tensor,
        coverage: Tensor,
        has_previous: Tensor,
    ) -> Tensor:
        """What the last refinenet of the mask head reads: (N, f, 4 gh, 4 gw)."""
        network, config = self.network, self.network.config
        rows, columns = (cells // config.coverage_scale for cells in coverage.shape[1:])
        prompts = Prompts(points, labels, coverage, has_previous)
        fused = self._fuse(state, on_grid(prompts, config))  # (N, K, C)
        grid = fused.transpose(1, 2).unflatten(2, (rows, columns))
        maps = {level: self._level(level, form, state, grid) for level, form in self.forms.items()}
        if network.fine_prompts is not None:
            for level, added in network.fine_prompts(*prompts).items():
                maps[level] = added + maps[level]  # N rows first, see `_level`
        head = network.mask_head
        return head.trunk(maps.pop(4), maps, project_first=self.rewrites.project_first)

    def predict(self, path: Tensor, state: dict[str, Tensor]) -> Tensor:
        """path (N, f, 4 gh, 4 gw) -> logits (N, h, w)."""
        network, config = self.network, self.network.config
        head = network.mask_head
        height, width = (side // FINE_SCALE * config.patch for side in path.shape[-2:])
        path = head.last_refinenet(path, project_first=self.rewrites.project_first)
        path = head.at_output_stride(path, height, width)
        if network.detail is not None:
            path = network.detail.merge(path, state[detail_name(config)])
        return head.predict(path, height, width)

    def _level(self, level: int, form: LevelForm, state: dict[str, Tensor], grid: Tensor) -> Tensor:
        """Level 4 after `reassemble`; other levels also after their first residual unit."""
        head = self.network.mask_head
        stored = state[f"{form.value}{level}"]
        if form is LevelForm.LATERAL:
            return stored
        if form is LevelForm.IMAGE:
            # The operand with N rows comes first: OpenVINO fuses this sum into the convolution
            # and takes the batch size from the left operand.
            reassembled = self.prompt_paths[str(level)](grid) + stored
        else:
            if level in self.network.config.fused_levels:
                stored = stored + self.network.injection(level)(grid)
            reassembled = head.reassemble(level, stored)
        return reassembled if level == 4 else head.refinenet(level).lateral(reassembled)

    def _fuse(self, state: dict[str, Tensor], prompts: Prompts[Tensor]) -> Tensor:
        network = self.network
        points, labels = prompts.points, prompts.labels
        n = points.shape[0]
        rows, columns = prompts.coverage.shape[1:]
        image = state["features"]
        features = image.expand(n, -1, -1)
        index = embedding = None
        if network.dense is not None:
            if self.rewrites.local_disks:
                index, embedding = network.dense.local(points, labels, rows, columns)
                features = add_at(features, index, embedding)
            else:
                features = features + network.dense(points, labels, rows, columns)
        if network.previous_mask is not None:
            features = features + network.previous_mask(prompts.coverage, prompts.has_previous)
        if network.fusion is None or network.sparse is None:
            return features
        tokens = network.sparse(network.position(points), labels)
        if (
            self.rewrites.cached_kv
            and index is not None
            and embedding is not None
            and network.previous_mask is None
            and network.fusion.takes_slots(tokens, rows * columns)
        ):
            slots = self._slots(state, prompts)
            slots = replace(slots, touched=Touched.of(index, embedding, slots.keys))
            biases = SlotBias(slots), SlotBias(slots, allow=True)
            cached = self._cached_rows(state, embedding)
            return network.fusion(tokens, features, state["position"], *biases, cached)
        order, allow = self._biases(state, prompts)
        projected = self._cached(state, features, prompts, index, embedding)
        return network.fusion(
            tokens,
            features,
            state["position"],
            order,
            allow,
            projected,
            project_tokens=self.rewrites.project_tokens,
            counts=slot_counts(labels, features.dtype) if self.rewrites.few_slots else None,
        )

    def _biases(
        self, state: dict[str, Tensor], prompts: Prompts[Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """M and B, each (N, 1 or heads, 48, K), or None where it is ablated."""
        network, config, labels = self.network, self.network.config, prompts.labels
        if not self.rewrites.shared_bias:
            depth = relative_depth(state["depth"], state["depth_min"], state["depth_max"])
            return network.attention_biases(depth, prompts)
        order = allow = None
        if config.uses_order_maps:
            grid, centres = self._depths(state, prompts)
            order = order_maps(grid, centres, labels).unsqueeze(1)  # (N, 1, 48, K)
        if config.uses_object_masks and network.fusion is not None:
            blocked = blocked_keys(
                prompts.coverage, prompts.has_previous, labels, empty=config.mask_empty_slots
            ).unsqueeze(1)
            masked = network.fusion.masked_logit
            allow = torch.where(blocked, masked, 0.0).to(state["features"].dtype)
        return order, allow

    def _depths(self, state: dict[str, Tensor], prompts: Prompts[Tensor]) -> tuple[Tensor, Tensor]:
        """D of each patch (1, K), and the D that each slot's order map is centred on (N, 48)."""
        lowest, highest = state["depth_min"], state["depth_max"]
        # Sampling, pooling and normalising are linear: normalise only the values that are used.
        raw = sample_bilinear(state["depth"], prompts.points)
        centres = slot_depths(relative_depth(raw, lowest, highest), prompts.labels)
        return relative_depth(state["grid_depth"].flatten(1), lowest, highest), centres

    def _slots(self, state: dict[str, Tensor], prompts: Prompts[Tensor]) -> Slots:
        """The inputs of M and B, for kernels that do not need them as matrices (see `_biases`)."""
        config, keys = self.network.config, prompts.coverage[0].numel()
        depth = centres = visible = None
        if config.uses_order_maps:
            depth, centres = self._depths(state, prompts)
        if config.uses_object_masks:
            visible = visible_bits(prompts.coverage, prompts.has_previous)
        return Slots(prompts.labels.to(torch.int32), keys, depth, centres, visible)

    def _cached(
        self,
        state: dict[str, Tensor],
        features: Tensor,
        prompts: Prompts[Tensor],
        index: Tensor | None,
        embedding: Tensor | None,
    ) -> list[list[Tensor]] | None:
        """Rewrite R4: cached K and V plus the part of the disks, which is zero in most patches."""
        if not self.rewrites.cached_kv or self.network.fusion is None:
            return None
        n = features.shape[0]
        projected = []
        for stored, layers in self._stored(state):
            pairs = []
            for base, layer in zip(stored, layers, strict=True):
                if index is not None and embedding is not None:
                    # Without bias: the stored part contains it.
                    part = F.linear(embedding.to(layer.weight.dtype), layer.weight)
                    base = add_at(base.expand(n, -1, -1), index, part)
                    if self.network.previous_mask is not None:
                        coverage, known = prompts.coverage, prompts.has_previous
                        mask = self.network.previous_mask(coverage, known, layer)
                        base = base + mask.to(base.dtype)
                elif self.network.dense is not None or self.network.previous_mask is not None:
                    added = (features - state["features"]).to(layer.weight.dtype)
                    base = base + F.linear(added, layer.weight)
                pairs.append(base)
            projected.append(pairs)
        return projected

    def _cached_rows(self, state: dict[str, Tensor], embedding: Tensor) -> list[list[Rows]]:
        """K and V as `_cached`, with the part of the disks kept apart."""
        return [
            [
                Rows(base, F.linear(embedding.to(layer.weight.dtype), layer.weight))
                for base, layer in zip(stored, layers, strict=True)
            ]
            for stored, layers in self._stored(state)
        ]

    def _stored(self, state: dict[str, Tensor]) -> Iterator[tuple[list[Tensor], list[nn.Linear]]]:
        """For each block: cached [K, V] of its attentions, each (1, K, C), and their layers."""
        if self.network.fusion is None:
            return
        for number, block in enumerate(self.network.fusion.block_list()):
            stored = list(state["keys_values"][number].unsqueeze(1))
            attentions = block.attentions()
            yield stored, [layer for each in attentions for layer in (each.key, each.value)]


def slot_counts(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """How many of the 48 slots each of S slots stands for: labels (N, S) -> (N, S).

    One for a click. The empty slots share what remains; at least one must be empty if S < 48.
    """
    empty = (labels < 0).to(dtype)
    absent = SLOTS - labels.shape[1]
    shares = empty.sum(1, keepdim=True).clamp(min=1)
    return 1 + empty * absent / shares


def add_at(base: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """A copy of base (N, K, C) with values (N, P, C) added at rows index (N, P)."""
    rows = index.unsqueeze(2).expand(-1, -1, base.shape[2])
    return base.scatter_add(1, rows, values.to(base.dtype))
