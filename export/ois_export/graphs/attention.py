"""Attention as the operator each ONNX target runs best; weights and maths stay the network's."""

from __future__ import annotations

import torch
from torch import Tensor

from ois_network.attention import MASKED_LOGIT


class ContribAttention:
    """`com.microsoft.MultiHeadAttention`, ONNX Runtime's fused kernel on CPU.

    The standard `Attention` operator would materialise heads x Q x K logits there: 1.4 GB
    for ViT-B at 1022 pixels. TensorRT cannot parse this operator, so it is for CPU only.
    """

    # Not -1e4: on this runtime's CPU kernels exp of such logits yields denormals, 3-20 times
    # slower. e^-60 is 1e-26: nothing leaks, nothing is denormal. The parity gate checks it.
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
    """MatMul, Softmax, MatMul: understood by every runtime, fused by the good ones.

    A bias below the masked logit says no more than that, and could be infinite in fp16.
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
    """ONNX's own `Attention` (opset 23): fused on ONNX Runtime's CUDA provider and, in half
    precision, by TensorRT 10.14 and newer.

    Queries, keys and values are (N, length, channels); the operator splits the heads itself, so
    the graph holds no transposes. Its scale is 1/√d by default, applied to Q and K alike.
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
