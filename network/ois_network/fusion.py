"""Fusion of clicks and image by order-aware and object-aware attention (paper §3.2, §3.3).

Three blocks on the 48 tokens T. Each step is followed by LayerNorm:

    T <- T + softmax(Q Kᵀ/√d - σ M) V       order-aware    (Eq. 3), σ >= 0 learnable
    T <- T + softmax(Q Kᵀ/√d + B) V         object-aware   (Eq. 4, 5)
    T <- T + FFN(T)

K and V come from the image features F. Keys also contain the position of their patch, as in SAM
(*ours*), so that attention can find what is near a click and not only what looks like it. Then the
image attends to the tokens: F' = F + Attn(Q=F, K=V=T) (*ours*; once, or in every block).
"""

from __future__ import annotations

import math

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
        self.order_attention = CrossAttention(dim, heads)
        self.object_attention = CrossAttention(dim, heads)
        self.order_norm = nn.LayerNorm(dim)
        self.object_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.fusion_ffn), nn.ReLU(), nn.Linear(config.fusion_ffn, dim)
        )
        self.ffn_norm = nn.LayerNorm(dim)
        # σ = softplus(raw) is positive for every value that the optimiser can reach.
        self.raw_sigma = nn.Parameter(torch.tensor(math.log(math.expm1(config.sigma_init))))

    @property
    def sigma(self) -> Tensor:
        """σ of Eq. 3: how much a depth difference reduces attention; a scalar >= 0."""
        return F.softplus(self.raw_sigma)

    def project(self, key_source: Tensor, value_source: Tensor) -> list[Tensor]:
        """[K, V] of the order-aware, then of the object-aware attention, each (N or 1, K, C)."""
        return [
            self.order_attention.key(key_source),
            self.order_attention.value(value_source),
            self.object_attention.key(key_source),
            self.object_attention.value(value_source),
        ]

    def forward(
        self,
        tokens: Tensor,
        projected: list[Tensor] | list[Rows],
        order: Tensor | SlotBias | None,
        allow: Tensor | SlotBias | None,
    ) -> Tensor:
        """tokens (N, 48, C) -> (N, 48, C). projected: see `project`.

        order: M (N, 1 or heads, 48, K) or None. allow: B of the same shape, or None. Both can be a
        `SlotBias` if `Fusion.takes_slots`.
        """
        order_key, order_value, object_key, object_value = projected

        def order_aware(t: Tensor) -> Tensor:
            bias: Tensor | SlotBias | None = None
            if isinstance(order, SlotBias):
                bias = order.scaled(self.sigma)
            elif order is not None:
                bias = -self.sigma * order
            return self.order_norm(t + self.order_attention(t, order_key, order_value, bias))

        def object_aware(t: Tensor) -> Tensor:
            return self.object_norm(t + self.object_attention(t, object_key, object_value, allow))

        steps = (order_aware, object_aware) if self.order_first else (object_aware, order_aware)
        for step in steps:
            tokens = step(tokens)
        return self.ffn_norm(tokens + self.ffn(tokens))


class Fusion(nn.Module):
    """The blocks and the image update."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
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
        return self.block_list()[0].object_attention.ops.masked_logit

    def takes_slots(self, tokens: Tensor, keys: int) -> bool:
        """Whether order and allow should be a `SlotBias` for these tokens (N, 48, C)."""
        attention = self.block_list()[0].object_attention
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
    ) -> Tensor:
        """tokens (N, 48, C), features F (N, K, C), position (1, K, C) -> F' (N, K, C).

        order, allow: see `FusionBlock.forward`. projected: K and V of each block, if they are
        cached (rewrite R4); impossible if the image features change between blocks.
        """
        each_block = len(self.image_updates) > 1
        for number, block in enumerate(self.block_list()):
            if projected is not None:
                pairs: list[Tensor] | list[Rows] = projected[number]
            else:
                pairs = block.project(features + position, features)
            tokens = block(tokens, pairs, order, allow)
            if each_block:
                features = self._update(number, features, position, tokens)
        if not each_block:
            features = self._update(0, features, position, tokens)
        return features

    def _update(self, number: int, features: Tensor, position: Tensor, tokens: Tensor) -> Tensor:
        update = [each for each in self.image_updates if isinstance(each, CrossAttention)][number]
        seen: Tensor = update(features + position, update.key(tokens), update.value(tokens))
        return features + seen
