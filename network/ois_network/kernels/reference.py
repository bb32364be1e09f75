"""The masked cross-attention as the paper writes it; every kernel is compared with it.

    Eq. 3   order-aware    softmax(Q Kᵀ/√d - σ M) V
    Eq. 4   object-aware   softmax(Q Kᵀ/√d + B) V
    Eq. 5   B = 0 where the slot may attend, -inf elsewhere

No operation is fused or skipped. In float64 the result is exact up to rounding.
"""

from __future__ import annotations

from torch import Tensor


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    *,
    order: Tensor | None = None,
    sigma: Tensor | float = 0.0,
    blocked: Tensor | None = None,
) -> Tensor:
    """The attention of query (N, Q, C) to key and value (N or 1, K, C): (N, Q, C), query's dtype.

    order: M (N, Q, K), differences of relative depths, 0..1. sigma: σ >= 0, one number or (heads).
    blocked: (N, Q, K) bool, True = the slot may not attend to the key; a row that is blocked
    everywhere counts as not blocked, as in `order.blocked_keys`.
    """
    n, q, c = query.shape
    d = c // heads
    queries = query.view(n, q, heads, d).transpose(1, 2)  # (N, heads, Q, d)
    keys = key.view(key.shape[0], -1, heads, d).transpose(1, 2)  # (N or 1, heads, K, d)
    values = value.view(value.shape[0], -1, heads, d).transpose(1, 2)
    logits = queries @ keys.transpose(2, 3) / d**0.5
    if order is not None:
        if isinstance(sigma, Tensor):
            sigma = sigma.to(logits).view(-1, 1, 1)
        logits = logits - sigma * order.to(logits).unsqueeze(1)
    if blocked is not None:
        blocked = blocked & ~blocked.all(2, keepdim=True)
        logits = logits.masked_fill(blocked.unsqueeze(1), float("-inf"))
    return (logits.softmax(3) @ values).transpose(1, 2).reshape(n, q, c)
