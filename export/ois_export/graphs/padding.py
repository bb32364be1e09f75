"""Lengths that kernels like: keys filled up to a multiple and masked, the result cut again.

Exact: a masked key's weight is e^-10000 = 0, and rows that were added are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ois_export.targets import GraphForm
from ois_network.attention import fill_up
from ois_network.fusion import Fusion
from ois_network.kernels.slots import Rows, SlotBias
from ois_network.network import OISNetwork


class FilledFusion(Fusion):
    """A `Fusion`, with its own layers, that sees a multiple of `multiple` image tokens."""

    def __init__(self, fusion: Fusion, multiple: int) -> None:
        nn.Module.__init__(self)
        self.blocks = fusion.blocks
        self.image_updates = fusion.image_updates
        self.multiple = multiple
        # Order-aware attention subtracts σ times the map, and σ may be tiny. Where it is not, the
        # bias falls far below the masked logit, and attention clamps it there.
        sigma = min(float(block.sigma) for block in self.block_list())
        self.far = -self.masked_logit / max(sigma, 1e-20)

    def forward(
        self,
        tokens: Tensor,
        features: Tensor,
        position: Tensor,
        order: Tensor | SlotBias | None,
        allow: Tensor | SlotBias | None,
        projected: list[list[Tensor]] | list[list[Rows]] | None = None,
    ) -> Tensor:
        length = features.shape[1]
        if projected is not None:
            projected = [[self._fill(each, 1) for each in pairs] for pairs in projected]
        # Both attentions get a bias, so that neither sees a key that is not there.
        if order is None:
            order = features.new_zeros(1, 1, tokens.shape[1], length)
        if allow is None:
            allow = features.new_zeros(1, 1, tokens.shape[1], length)
        fused = super().forward(
            tokens,
            self._fill(features, 1),
            self._fill(position, 1),
            self._fill(order, 3, self.far),
            self._fill(allow, 3, self.masked_logit),
            projected,
        )
        return fused.narrow(1, 0, length)

    def _fill(self, x: Tensor | Rows | SlotBias, axis: int, value: float = 0.0) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"got {type(x).__name__}; graphs are exported with tensors only")
        return fill_up(x, axis, self.multiple, value)


@contextmanager
def filled(network: OISNetwork, form: GraphForm) -> Iterator[None]:
    """While the block runs, `network` computes with lengths as `form` wants them."""
    fusion = network.fusion
    network.encoder.token_multiple = form.token_multiple
    if fusion is not None and form.key_multiple > 1:
        network.fusion = FilledFusion(fusion, form.key_multiple)
    try:
        yield
    finally:
        network.encoder.token_multiple = 1
        network.fusion = fusion
