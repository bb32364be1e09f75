"""The network's forward pass for a training batch: B images with N objects.

In real arithmetic it computes what `OISNetwork.encode` and `.click` compute. Objects of one image
share what they can (rewrites R1, R2, R5 and R6 of `split.py`, here with gradients).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ois_client.contract.clicks import SLOTS_PER_SIGN, Prompts
from ois_network.dpt import DPTHead, upsample
from ois_network.keep_clicks import keep_clicks
from ois_network.network import OISNetwork, on_grid
from ois_network.order import (
    blocked_keys,
    order_maps,
    pool_to_grid,
    relative_depth,
    sample_bilinear,
    slot_depths,
)


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The encoded images of a batch.

    levels: four (B, D, gh, gw). depth: (B, h, w) raw inverse depth. laterals: level number ->
    (B, f, .., ..), for the levels of the mask head that no click reaches; level 4 after
    `reassemble`, levels 1 to 3 also after their residual unit. detail: of `Detail`, or None.
    """

    levels: list[Tensor]
    depth: Tensor
    laterals: dict[int, Tensor]
    detail: Tensor | None

    def detach(self) -> EncodedBatch:
        """The same values without gradients."""
        return EncodedBatch(
            [level.detach() for level in self.levels],
            self.depth.detach(),
            {n: lateral.detach() for n, lateral in self.laterals.items()},
            None if self.detail is None else self.detail.detach(),
        )


def encode_batch(
    network: OISNetwork, image: Tensor, pos_rows: Tensor, pos_cols: Tensor, *, coarse: bool = False
) -> EncodedBatch:
    """Encode image (B, h, w, 3) uint8 RGB; pos_rows (gh, T), pos_cols (gw, T).

    coarse: see `click_batch`.
    """
    return encode_levels(network, network.encoder(image, pos_rows, pos_cols), image, coarse=coarse)


def encode_levels(
    network: OISNetwork,
    levels: list[Tensor],
    image: Tensor,
    depth: Tensor | None = None,
    *,
    coarse: bool = False,
) -> EncodedBatch:
    """`encode_batch` for images whose levels (and depth) are already known."""
    if depth is None:
        head = network.depth_head
        maps = {n: channels_last(head.reassemble(n, levels[n - 1])) for n in (1, 2, 3, 4)}
        laterals = {n: head.refinenet(n).lateral(maps[n]) for n in (1, 2, 3)}
        path = head.refine(maps[4], laterals, project_first=True)
        depth = F.relu(_predict(head, path, levels, coarse)).float()
    head = network.mask_head
    laterals = {}
    for number in {1, 2, 3, 4} - set(network.config.fused_levels):
        reassembled = channels_last(head.reassemble(number, levels[number - 1]))
        laterals[number] = (
            reassembled if number == 4 else head.refinenet(number).lateral(reassembled)
        )
    return EncodedBatch(levels, depth, laterals, network.details(image))


def click_batch(
    network: OISNetwork,
    encoded: EncodedBatch,
    owner: Tensor,
    prompts: Prompts[Tensor],
    *,
    coarse: bool = False,
    kept: bool = True,
) -> Tensor:
    """Mask logits (N, h, w). No gradient flows from masks into the depth behind the order maps.

    owner: (N) int64, the image of each object. prompts: of N objects. coarse: the head's last
    convolutions run before its last upsampling instead of after it. That is a third of the work
    and not what the network computes; it is for the first part of a training run. Networks with
    an `output_stride` save this work anyway, so nothing changes for them. kept: with `keep_clicks`,
    if the network has it.
    """
    config, head = network.config, network.mask_head
    fused = _fuse(network, encoded, owner, on_grid(prompts, config))
    rows, columns = encoded.levels[3].shape[-2:]
    grid = fused.transpose(1, 2).unflatten(2, (rows, columns))
    maps: dict[int, Tensor] = {}
    for number in (1, 2, 3, 4):
        if number in config.fused_levels:
            level = encoded.levels[number - 1][owner] + network.inject[str(number)](grid)
            mapped = channels_last(head.reassemble(number, level))
            maps[number] = mapped if number == 4 else head.refinenet(number).lateral(mapped)
        else:
            maps[number] = channels_last(encoded.laterals[number][owner])
    if network.fine_prompts is not None:
        for level, added in network.fine_prompts(*prompts).items():
            maps[level] = maps[level] + channels_last(added)
    path = head.refine(maps.pop(4), maps, project_first=True)
    details = None if encoded.detail is None else encoded.detail[owner]
    logits = _predict(head, path, encoded.levels, coarse, network.merger(details))
    if kept and config.keep_clicks:
        logits = keep_clicks(logits.float(), prompts.points, prompts.labels)
    return logits


def _predict(
    head: DPTHead, path: Tensor, levels: list[Tensor], coarse: bool,
    merge: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    rows, columns = levels[3].shape[-2:]
    height, width = rows * head.patch, columns * head.patch
    if coarse and head.output_stride == 1:
        small = head.scratch.output_conv2(path)  # (N, 1, ..)
        return upsample(small, height, width, aligned=head.aligned)[:, 0]
    path = head.at_output_stride(path, height, width)
    return head.predict(path if merge is None else merge(path), height, width)


def _fuse(
    network: OISNetwork,
    encoded: EncodedBatch,
    owner: Tensor,
    prompts: Prompts[Tensor],
) -> Tensor:
    """F' (N, K, C), as `OISNetwork.fuse`."""
    config, points, labels = network.config, prompts.points, prompts.labels
    rows, columns = encoded.levels[3].shape[-2:]
    depth = encoded.depth.detach()  # (B, h, w)
    lowest, highest = depth.amin((1, 2)), depth.amax((1, 2))
    image = network.project(encoded.levels[3].flatten(2).transpose(1, 2))  # (B, K, C)
    position = network.position.grid(rows, columns, config.patch)
    if network.depth_encoder is not None:
        image = network.depth_encoder(image, relative_depth(depth, lowest, highest), position)
    features = image[owner]  # (N, K, C)
    if network.dense is not None:
        disks = disk_maps(points, labels, network.dense.radius, *depth.shape[1:])
        features = features + network.dense.conv(disks).flatten(2).transpose(1, 2)
    if network.previous_mask is not None:
        features = features + network.previous_mask(prompts.coverage, prompts.has_previous)
    if network.sparse is None or network.fusion is None:
        return features
    order = allow = None
    if config.uses_order_maps:
        raw = sample_bilinear(depth[owner], points)
        centres = slot_depths(relative_depth(raw, lowest[owner], highest[owner]), labels)
        pooled = relative_depth(pool_to_grid(depth, config.patch), lowest, highest)
        order = order_maps(pooled.flatten(1)[owner], centres, labels).unsqueeze(1)
    if config.uses_object_masks:
        blocked = blocked_keys(
            prompts.coverage, prompts.has_previous, labels, empty=config.mask_empty_slots
        ).unsqueeze(1)
        allow = torch.where(blocked, network.fusion.masked_logit, 0.0).to(features.dtype)
    tokens = network.sparse(network.position(points), labels)
    return network.fusion(tokens, features, position, order, allow)


def disk_maps(points: Tensor, labels: Tensor, radius: float, height: int, width: int) -> Tensor:
    """`DensePrompts.disk_maps`, (N, 2, h, w), with work only for the slots that hold a click."""
    maps = points.new_zeros(points.shape[0], 2, height, width)
    row, slot = (labels >= 0).nonzero(as_tuple=True)
    x, y = points[row, slot].unbind(1)  # (F) each
    reach = torch.arange(-math.ceil(radius), math.ceil(radius) + 2, device=points.device)
    px = (x.floor().unsqueeze(1) + reach).unsqueeze(1)  # (F, 1, r)
    py = (y.floor().unsqueeze(1) + reach).unsqueeze(2)  # (F, r, 1)
    near = (px - x.view(-1, 1, 1)) ** 2 + (py - y.view(-1, 1, 1)) ** 2 <= radius**2
    near = near & (px >= 0) & (px < width) & (py >= 0) & (py < height)
    plane = (2 * row + (slot >= SLOTS_PER_SIGN).long()).view(-1, 1, 1)
    index = (plane * height + py.long()) * width + px.long()
    maps.view(-1)[index[near]] = 1.0
    return maps


def channels_last(x: Tensor) -> Tensor:
    """The same tensor in memory format (N, h, w, C): its convolutions' backward pass takes half
    the time."""
    return x.contiguous(memory_format=torch.channels_last)
