"""Attention modules that hold the weights, and interchangeable operations that compute.

Every module calls `self.ops`, by default plain PyTorch. An exporter replaces it with
`set_attention_ops` by one that emits the operator that its target runs best. Weights, shapes and
equation stay the same, which the parity gate checks.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ois_network.kernels.slots import Call, Rows, SlotBias

#: Added to the logit of a blocked key. Finite, because -inf makes fully blocked rows NaN on some
#: runtimes; so large that the weight of a blocked key is zero.
MASKED_LOGIT = -1e4


class AttentionOps(Protocol):
    """softmax(Q Kᵀ/√d + bias) V over `heads` heads; all tensors are (batch, length, channels)."""

    #: The logit that blocks a key on this target.
    masked_logit: float

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None
    ) -> Tensor:
        """query (N, Q, C) -> (N, Q, C). key, value (N or 1, K, C); bias (N, 1 or heads, Q, K)."""
        ...


@runtime_checkable
class SlotAttentionOps(AttentionOps, Protocol):
    """Attention that can also compute from the compact inputs of `kernels.slots`."""

    def takes(self, call: Call, device: torch.device) -> bool:
        """Whether to use `attend_slots` for attention of this size."""
        ...

    def attend_slots(
        self, query: Tensor, key: Rows, value: Rows, heads: int, bias: SlotBias
    ) -> Tensor:
        """As `attend`: query (N, Q, C) -> (N, Q, C)."""
        ...


class TorchAttention:
    """PyTorch's fused attention."""

    masked_logit = MASKED_LOGIT

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None
    ) -> Tensor:
        n, q, c = query.shape
        d = c // heads
        query = query.view(n, q, heads, d).transpose(1, 2)
        key = key.view(key.shape[0], -1, heads, d).transpose(1, 2)
        value = value.view(value.shape[0], -1, heads, d).transpose(1, 2)
        if key.shape[0] != n:  # one image, N objects
            key = key.expand(n, -1, -1, -1)
            value = value.expand(n, -1, -1, -1)
        if bias is not None:
            bias = bias.to(query.dtype)  # the fused kernels support no other
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return out.transpose(1, 2).reshape(n, q, c)


class EquationAttention:
    """Equations 3 and 4 without a fused kernel, so that each product can be counted.

    Its backward pass is also faster on a CPU.
    """

    masked_logit = MASKED_LOGIT

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None
    ) -> Tensor:
        logits = attention_logits(query, key, heads)
        if bias is not None:
            logits = logits + bias
        return weighted_values(logits.softmax(-1), value)


def attention_logits(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Q Kᵀ/√d: query (N, Q, C), key (N or 1, K, C) -> (N, heads, Q, K)."""
    n, q, c = query.shape
    d = c // heads
    query = query.view(n, q, heads, d).transpose(1, 2)  # (N, heads, Q, d)
    key = key.view(key.shape[0], -1, heads, d).permute(0, 2, 3, 1)  # (N or 1, heads, d, K)
    return query @ key / d**0.5


def weighted_values(weights: Tensor, value: Tensor) -> Tensor:
    """weights (N, heads, Q, K), value (N or 1, K, C) -> (N, Q, C), the heads joined."""
    n, heads, q = weights.shape[:3]
    c = value.shape[-1]
    value = value.view(value.shape[0], -1, heads, c // heads).transpose(1, 2)  # (.., heads, K, d)
    return (weights @ value).transpose(1, 2).reshape(n, q, c)


def fill_up(x: Tensor, axis: int, multiple: int, value: float = 0.0) -> Tensor:
    """`x` with `value` appended along `axis` up to the next multiple of `multiple`.

    It appends a fixed number and cuts, so that a traced graph never contains an empty tensor.
    """
    length = x.shape[axis]
    shape = list(x.shape)
    shape[axis] = multiple - 1
    longer = torch.cat((x, x.new_full(shape, value)), dim=axis)
    return longer.narrow(axis, 0, (length + multiple - 1) // multiple * multiple)


def set_attention_ops(module: nn.Module, ops: AttentionOps) -> None:
    """Let every attention in `module` compute with `ops`."""
    for child in module.modules():
        if isinstance(child, SelfAttention | CrossAttention):
            child.ops = ops


class SelfAttention(nn.Module):
    """DINOv2's attention: one fused qkv projection, one output projection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.ops: AttentionOps = TorchAttention()

    def forward(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        """tokens (B, T, D), bias (1, 1, 1, T) on the keys or None -> (B, T, D)."""
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        return self.proj(self.ops.attend(query, key, value, self.heads, bias))


class CrossAttention(nn.Module):
    """Attention to other tokens. The caller projects K and V, so that they can be cached."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.ops: AttentionOps = TorchAttention()

    def forward(
        self,
        tokens: Tensor,
        key: Tensor | Rows,
        value: Tensor | Rows,
        bias: Tensor | SlotBias | None = None,
    ) -> Tensor:
        """tokens (N, Q, C) -> (N, Q, C).

        key, value: the projections `self.key` and `self.value` of (N or 1, K, C). bias:
        (N, 1, Q, K), or a `SlotBias` if the ops support it. Raises `TypeError` if they do not, or
        if K and V are `Rows` without a `SlotBias`.
        """
        if isinstance(bias, SlotBias):
            rows = Rows.of(key), Rows.of(value)
            return self.out(self._attend_slots(self.query(tokens), *rows, bias))
        if isinstance(key, Rows) or isinstance(value, Rows):
            raise TypeError("got Rows with a tensor as bias; Rows need a SlotBias")
        return self.out(self.ops.attend(self.query(tokens), key, value, self.heads, bias))

    def attend_unprojected(
        self, tokens: Tensor, keys: Tensor, values: Tensor, bias: Tensor | SlotBias | None
    ) -> Tensor:
        """`forward` with K and V of these sources, none of which is projected (rewrite R8).

        q·(Wₖ f) = (Wₖᵀ q)·f and Σ w (Wᵥ f) = Wᵥ (Σ w f): with few tokens and many patches it is
        less work to apply both matrices to the tokens. The bias of the keys adds the same to every
        logit of a softmax, so it changes nothing.

        tokens (N, Q, C); keys, values (N or 1, K, C); bias (N, 1, Q, K) -> (N, Q, C).
        """
        if isinstance(bias, SlotBias):
            raise TypeError("got a SlotBias; attention to unprojected sources needs a tensor")
        n, q, c = tokens.shape
        split = self.heads, c // self.heads
        query = self.query(tokens).view(n, q, *split).transpose(1, 2)  # (N, heads, Q, d)
        query = query @ (self.key.weight.view(*split, c) * split[1] ** -0.5)  # (N, heads, Q, C)
        logits = query.reshape(n, -1, c) @ keys.transpose(1, 2)
        logits = logits.view(n, self.heads, q, -1)
        if bias is not None:
            logits = logits + bias
        seen = logits.softmax(-1).view(n, self.heads * q, -1) @ values  # (N, heads * Q, C)
        value = self.value.weight.view(*split, c).transpose(1, 2)
        result = (seen.view(n, self.heads, q, c) @ value).transpose(1, 2).reshape(n, q, c)
        return self.out(result + self.value.bias)

    def update_unprojected(self, image: Tensor, tokens: Tensor, bias: Tensor | None) -> Tensor:
        """`forward` of the queries `image` to the tokens, with its projections moved to the tokens.

        image (N, K, C), tokens (N, S, C), bias (N, S) -> (N, K, C). See `attend_unprojected`.
        """
        n, s, c = tokens.shape
        split = self.heads, c // self.heads
        key = self.key(tokens).view(n, s, *split).transpose(1, 2) * split[1] ** -0.5
        value = self.value(tokens).view(n, s, *split).transpose(1, 2)  # (N, heads, S, d)
        keys = (key @ self.query.weight.view(*split, c)).reshape(n, self.heads * s, c)
        added = (key @ self.query.bias.view(*split, 1))[..., 0]  # (N, heads, S)
        if bias is not None:
            added = added + bias.unsqueeze(1)
        logits = image @ keys.transpose(1, 2) + added.reshape(n, 1, self.heads * s)
        weights = logits.view(n, -1, self.heads, s).softmax(-1).view(n, -1, self.heads * s)
        out = self.out.weight.t().reshape(*split, c)
        return weights @ (value @ out).reshape(n, self.heads * s, c) + self.out.bias

    def _attend_slots(self, query: Tensor, key: Rows, value: Rows, bias: SlotBias) -> Tensor:
        if not isinstance(self.ops, SlotAttentionOps):
            raise TypeError(f"{type(self.ops).__name__} does not support SlotBias; pass a tensor")
        return self.ops.attend_slots(query, key, value, self.heads, bias)
