"""Fusion of clicks and image by order-aware and object-aware attention (paper §3.2, §3.3).

Three blocks on the 48 tokens T. Each step is followed by LayerNorm:

    T <- T + softmax(Q Kᵀ/√d - σ M) V       order-aware    (Eq. 3), σ >= 0 learnable
    T <- T + softmax(Q Kᵀ/√d + B) V         object-aware   (Eq. 4, 5)
    T <- T + FFN(T)

K and V come from the image features F. Keys also contain the position of their patch, as in SAM
(*ours*), so that attention can find what is near a click and not only what looks like it. Then the
image attends to the tokens: F' = F + Attn(Q=F, K=V=T) (*ours*; once, or in every block). No token
attends to another, so tokens that start equal stay equal: one can stand for several (rewrite R7).

A network without `order_attention` or `object_attention` (Table 4) has no such step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ois_network.attention import CrossAttention, SlotAttentionOps
from ois_network.config import FusionOrder, ImageUpdate, NetworkConfig
from ois_network.kernels.slots import Call, Rows, SlotBias


class FusionBlock(nn.Module):
    """One block. The caller projects K and V, so that they can be cached."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim, heads = config.prompt_dim, config.fusion_heads
        self.order_first = config.fusion_order is FusionOrder.ORDER_FIRST
        order, objects = config.order_attention, config.object_attention
        self.order_attention = CrossAttention(dim, heads) if order else None
        self.object_attention = CrossAttention(dim, heads) if objects else None
        self.order_norm = nn.LayerNorm(dim) if order else None
        self.object_norm = nn.LayerNorm(dim) if objects else None
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.fusion_ffn), nn.ReLU(), nn.Linear(config.fusion_ffn, dim)
        )
        self.ffn_norm = nn.LayerNorm(dim)
        # σ = softplus(raw) is positive for every value that the optimiser can reach.
        raw = nn.Parameter(torch.tensor(math.log(math.expm1(config.sigma_init))))
        self.raw_sigma = raw if order else None

    @property
    def sigma(self) -> Tensor | None:
        """σ of Eq. 3: how much a depth difference reduces attention; a scalar >= 0.

        None without order-aware attention.
        """
        return None if self.raw_sigma is None else F.softplus(self.raw_sigma)

    def attentions(self) -> list[CrossAttention]:
        """The order-aware, then the object-aware attention, without those that are removed."""
        both = (self.order_attention, self.object_attention)
        return [attention for attention in both if attention is not None]

    def project(self, key_source: Tensor, value_source: Tensor) -> list[Tensor]:
        """[K, V] of each of `attentions`, each (N or 1, K, C)."""
        return [
            layer(source)
            for attention in self.attentions()
            for layer, source in (
                (attention.key, key_source),
                (attention.value, value_source),
            )
        ]

    def forward(
        self,
        tokens: Tensor,
        projected: list[Tensor] | list[Rows] | Sources,
        order: Tensor | SlotBias | None,
        allow: Tensor | SlotBias | None,
    ) -> Tensor:
        """tokens (N, 48, C) -> (N, 48, C). projected: see `project`, or what it would project.

        order: M (N, 1 or heads, 48, K) or None. allow: B of the same shape, or None. Both can be a
        `SlotBias` if `Fusion.takes_slots`.
        """
        steps: list[tuple[CrossAttention, nn.LayerNorm, Tensor | SlotBias | None]] = []
        sigma = self.sigma
        if self.order_attention is not None and self.order_norm is not None and sigma is not None:
            bias = order
            if isinstance(order, SlotBias):
                bias = order.scaled(sigma)
            elif order is not None:
                bias = -sigma * order
            steps.append((self.order_attention, self.order_norm, bias))
        if self.object_attention is not None and self.object_norm is not None:
            steps.append((self.object_attention, self.object_norm, allow))
        pairs: list[Any] = [projected] * len(steps)
        if not isinstance(projected, Sources):
            pairs = list(zip(projected[::2], projected[1::2], strict=True))
        made = list(zip(steps, pairs, strict=True))
        for (attention, norm, bias), pair in made if self.order_first else made[::-1]:
            if isinstance(pair, Sources):
                seen = attention.attend_unprojected(tokens, pair.keys, pair.values, bias)
            else:
                seen = attention(tokens, *pair, bias)
            tokens = norm(tokens + seen)
        return self.ffn_norm(tokens + self.ffn(tokens))


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """What K and V are projected from, for attentions that do not project it (rewrite R8)."""

    keys: Tensor
    values: Tensor


class Fusion(nn.Module):
    """The blocks and the image update."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        # The kernels leave empty slots free.
        self.slots_possible = not (config.uses_object_masks and config.mask_empty_slots)
        self.blocks = nn.ModuleList(FusionBlock(config) for _ in range(config.fusion_blocks))
        updates = config.fusion_blocks if config.image_update is ImageUpdate.EACH_BLOCK else 1
        self.image_updates = nn.ModuleList(
            CrossAttention(config.prompt_dim, config.fusion_heads) for _ in range(updates)
        )

    def block_list(self) -> list[FusionBlock]:
        """The blocks with their type, which `ModuleList` does not keep."""
        return [block for block in self.blocks if isinstance(block, FusionBlock)]

    @property
    def masked_logit(self) -> float:
        """The logit that blocks a key for the attention operations in use."""
        return self._update_layer(0).ops.masked_logit

    def takes_slots(self, tokens: Tensor, keys: int) -> bool:
        """Whether order and allow should be a `SlotBias` for these tokens (N, 48, C).

        Never with `mask_empty_slots`, which the compact form cannot express.
        """
        if not self.slots_possible:
            return False
        attention = self._update_layer(0)  # sizes and operations are those of every attention here
        n, queries, channels = tokens.shape
        dtype = attention.query.weight.dtype
        call = Call(n, queries, channels, keys, attention.heads, dtype)
        ops = attention.ops
        return isinstance(ops, SlotAttentionOps) and ops.takes(call, tokens.device)

    def forward(
        self,
        tokens: Tensor,
        features: Tensor,
        position: Tensor,
        order: Tensor | SlotBias | None,
        allow: Tensor | SlotBias | None,
        projected: list[list[Tensor]] | list[list[Rows]] | None = None,
        *,
        project_tokens: bool = False,
        counts: Tensor | None = None,
    ) -> Tensor:
        """tokens (N, 48, C), features F (N, K, C), position (1, K, C) -> F' (N, K, C).

        order, allow: see `FusionBlock.forward`. projected: K and V of each block, if they are
        cached (rewrite R4); impossible if the image features change between blocks. project_tokens:
        rewrite R8. counts (N, S): how many equal tokens each of S tokens stands for (rewrite R7);
        only with R8.
        """
        each_block = len(self.image_updates) > 1
        repeated = None if counts is None else counts.log()
        for number, block in enumerate(self.block_list()):
            pairs: list[Tensor] | list[Rows] | Sources
            if projected is not None:
                pairs = projected[number]
            elif project_tokens:
                pairs = Sources(features + position, features)
            else:
                pairs = block.project(features + position, features)
            tokens = block(tokens, pairs, order, allow)
            if each_block or number == len(self.blocks) - 1:
                layer = self._update_layer(number if each_block else 0)
                if project_tokens:
                    seen = layer.update_unprojected(features + position, tokens, repeated)
                else:
                    seen = layer(features + position, layer.key(tokens), layer.value(tokens))
                features = features + seen
        return features

    def _update_layer(self, number: int) -> CrossAttention:
        return [each for each in self.image_updates if isinstance(each, CrossAttention)][number]
