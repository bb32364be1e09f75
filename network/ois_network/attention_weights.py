"""The weights of the fusion's attentions, which the fused operations do not return.

They show what an embedding of a click looks at, with and without the order map (the paper's
Figures 6 and 7). The network's own forward pass runs; only the attention operations of its blocks
are replaced by ones that compute the softmax explicitly and keep it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ois_client.contract.clicks import Prompts
from ois_client.contract.errors import InvalidInput
from ois_network.attention import (
    MASKED_LOGIT,
    CrossAttention,
    attention_logits,
    weighted_values,
)
from ois_network.fusion import FusionBlock
from ois_network.network import ImageFeatures, OISNetwork


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What the 48 tokens of N objects look at: each row is a distribution over the K patches.

    biased: (N, heads, 48, K), softmax(Q Kᵀ/√d + bias), the weights that the network uses.
    unbiased: of the same shape, softmax(Q Kᵀ/√d), the same queries and keys without the bias.
    Slots and patches are in the network's order: slots 0 to 23 are positive, patches row-major.
    """

    biased: Tensor
    unbiased: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class BlockWeights:
    """One block of the fusion. None: the network has no such attention.

    order: bias = -σ M (Eq. 3). objects: bias = B (Eq. 4). sigma: σ of the block.
    """

    order: Weights | None
    objects: Weights | None
    sigma: float | None


class WeightsKept:
    """`AttentionOps` that compute as `EquationAttention` and keep the weights of the last call."""

    masked_logit = MASKED_LOGIT

    def __init__(self) -> None:
        self.weights: Weights | None = None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None
    ) -> Tensor:
        logits = attention_logits(query, key, heads)
        unbiased = logits.softmax(-1)
        biased = unbiased if bias is None else (logits + bias).softmax(-1)
        self.weights = Weights(biased, unbiased)
        return weighted_values(biased, value)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The operations of one block, and those that they stand in for."""

    block: FusionBlock
    order: WeightsKept = field(default_factory=WeightsKept)
    objects: WeightsKept = field(default_factory=WeightsKept)

    def pairs(self) -> list[tuple[CrossAttention, WeightsKept]]:
        both = (self.block.order_attention, self.order), (self.block.object_attention, self.objects)
        return [(attention, kept) for attention, kept in both if attention is not None]

    def result(self) -> BlockWeights:
        sigma = self.block.sigma
        return BlockWeights(
            self.order.weights,
            self.objects.weights,
            None if sigma is None else float(sigma),
        )


@torch.inference_mode()
def attention_weights(
    network: OISNetwork, features: ImageFeatures, prompts: Prompts[Tensor]
) -> list[BlockWeights]:
    """The weights of every block for the prompts of N objects, in the order of the blocks.

    features: of N images, or of one image that N objects share. The memory is 4 * N * heads * 48 *
    K values per block. Raises `InvalidInput` if the network has no sparse prompts (`sparse =
    false`), because then it has no attention.
    """
    if network.fusion is None:
        raise InvalidInput(
            "got a network without sparse prompts (sparse = false); expected one with them, "
            "because only their embeddings attend to the image"
        )
    with _keeping(network.fusion.block_list()) as kept:
        network.fuse(features, prompts)
    return [one.result() for one in kept]


@contextmanager
def _keeping(blocks: list[FusionBlock]) -> Iterator[list[_Kept]]:
    """Replace the operations of the blocks' attentions, and put them back at the end."""
    kept = [_Kept(block) for block in blocks]
    pairs = [pair for one in kept for pair in one.pairs()]
    before = [attention.ops for attention, _ in pairs]
    try:
        for attention, ops in pairs:
            attention.ops = ops
        yield kept
    finally:
        for (attention, _), former in zip(pairs, before, strict=True):
            attention.ops = former
