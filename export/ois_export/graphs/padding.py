"""Pads tokens and keys to a multiple that kernels run fast, and masks the padding.

The result is exact: a masked key has the weight e^-10000 = 0, and added rows are dropped.
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


class PaddedFusion(Fusion):
    """A `Fusion` that pads its image tokens to a multiple of `multiple`.

    It uses the layers of the fusion that it is made from.
    """

    def __init__(self, fusion: Fusion, multiple: int) -> None:
        nn.Module.__init__(self)
        self.blocks = fusion.blocks
        self.image_updates = fusion.image_updates
        self.multiple = multiple
        # Order-aware attention subtracts σ times the order map, so the map's padding must mask
        # with the smallest σ. With a larger σ the bias is lower still, and attention clamps it.
        sigmas = [float(each.sigma) for each in self.block_list() if each.sigma is not None]
        sigma = min(sigmas, default=1.0)
        self.masked_distance = -self.masked_logit / max(sigma, 1e-20)

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
        length = features.shape[1]
        if projected is not None:
            projected = [[self._pad(each, 1) for each in pairs] for pairs in projected]
        # Both attentions need a bias to mask the padding.
        if order is None:
            order = features.new_zeros(1, 1, tokens.shape[1], length)
        if allow is None:
            allow = features.new_zeros(1, 1, tokens.shape[1], length)
        fused = super().forward(
            tokens,
            self._pad(features, 1),
            self._pad(position, 1),
            self._pad(order, 3, self.masked_distance),
            self._pad(allow, 3, self.masked_logit),
            projected,
            project_tokens=project_tokens,
            counts=counts,
        )
        return fused.narrow(1, 0, length)

    def _pad(self, x: Tensor | Rows | SlotBias, axis: int, value: float = 0.0) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"got {type(x).__name__}; expected a Tensor: the kernels' types are not exported"
            )
        return fill_up(x, axis, self.multiple, value)


@contextmanager
def padded(network: OISNetwork, form: GraphForm) -> Iterator[None]:
    """Pad `network`'s tokens and keys as `form` says while the block runs."""
    fusion = network.fusion
    network.encoder.token_multiple = form.token_multiple
    if fusion is not None and form.key_multiple > 1:
        network.fusion = PaddedFusion(fusion, form.key_multiple)
    try:
        yield
    finally:
        network.encoder.token_multiple = 1
        network.fusion = fusion
