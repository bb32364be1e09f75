"""The forms of attention in ONNX graphs: one class per operator, all compute the same result."""

from __future__ import annotations

import torch
from torch import Tensor

from ois_network.attention import MASKED_LOGIT


class ContribAttention:
    """`com.microsoft.MultiHeadAttention`, for CPUs: ONNX Runtime has a fused kernel for it.

    On CPU, ONNX Runtime's `Attention` operator materialises heads x Q x K logits: 1.4 GB for
    ViT-B at 1022 pixels. TensorRT cannot parse `MultiHeadAttention`.
    """

    # Not -1e4: ONNX Runtime's CPU kernels get denormals from exp of such logits and are 3 to 20
    # times slower. e^-60 is 1e-26: small enough to mask a key, and not denormal.
    masked_logit = -60.0

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None
    ) -> Tensor:
        n, q, c = query.shape
        if key.shape[0] != n:  # the operator does not broadcast its batch
            key = key.expand(n, -1, -1)
            value = value.expand(n, -1, -1)
        inputs: tuple[Tensor | None, ...] = (query, key, value)
        if bias is not None:
            inputs = (query, key, value, None, None, bias)
        output: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            inputs,
            attrs={"num_heads": heads},
            dtype=query.dtype,
            shape=(n, q, c),
            version=1,
        )
        return output


class PlainAttention:
    """MatMul, Softmax, MatMul: every runtime supports it.

    The bias is clamped at the masked logit: lower values mask no more, and are infinite in fp16.
    """

    masked_logit = MASKED_LOGIT

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None
    ) -> Tensor:
        n, q, c = query.shape
        d = c // heads
        query = query.view(n, q, heads, d).transpose(1, 2) * d**-0.5
        key = key.view(key.shape[0], -1, heads, d).permute(0, 2, 3, 1)
        value = value.view(value.shape[0], -1, heads, d).transpose(1, 2)
        logits = query @ key
        if bias is not None:
            logits = logits + bias.clamp(min=self.masked_logit)
        return (logits.softmax(-1) @ value).transpose(1, 2).reshape(n, q, c)


class StandardAttention:
    """The standard `Attention` operator (opset 23).

    ONNX Runtime fuses it on CUDA, and TensorRT from 10.14 on in half precision. Queries, keys
    and values are (N, length, channels): the operator splits the heads, so the graph needs no
    transposes. Its default scale is 1/√d.
    """

    masked_logit = MASKED_LOGIT

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None
    ) -> Tensor:
        n, q, c = query.shape
        if key.shape[0] != n:  # the operator does not broadcast its batch
            key = key.expand(n, -1, -1)
            value = value.expand(n, -1, -1)
        inputs: tuple[Tensor, ...] = (query, key, value)
        if bias is not None:  # as in `PlainAttention`
            inputs = (*inputs, bias.clamp(min=self.masked_logit))
        output: Tensor = torch.onnx.ops.symbolic(
            "::Attention",
            inputs,
            attrs={"q_num_heads": heads, "kv_num_heads": heads},
            dtype=query.dtype,
            shape=(n, q, c),
            version=23,
        )
        return output
