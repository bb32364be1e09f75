"""All the masked attention of one click, run by PyTorch or by our kernels, to compare the two.

Three blocks of order-aware and object-aware attention. The inputs are those of the click decoder:
labels, depths and coverage of the click, K and V of the image as the state holds them, and what
the disks add to them. Both ways start from these inputs, so each pays for its own preparation:

    by PyTorch   writes M and B, and K and V of each object, to memory; then fused attention
    by kernels   packs the visible bits once; then two kernels per attention
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ois_client.contract.clicks import SLOTS, SLOTS_PER_SIGN
from ois_network.attention import TorchAttention
from ois_network.kernels.choice import Blocks
from ois_network.kernels.reference import masked_attention as equation
from ois_network.kernels.slots import Call, Rows, SlotBias, Slots, Touched, visible_bits
from ois_network.order import blocked_keys, order_maps
from ois_network.split import add_at

#: Fusion blocks of the network, each with two attentions.
BLOCKS_OF_FUSION = 3
CLICKS = (5, 3)  # positive, negative: typical of the middle of a session
COVERED = 0.1  # the previous mask's share of the image
#: Largest |kernel - float64| / |float64| that is rounding.
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
_FUSED = TorchAttention()
_ENTRIES = 4 * SLOTS  # patches that the disks of 48 slots can touch, each up to 4


@dataclass(frozen=True, slots=True)
class ClickAttention:
    """The inputs of the six attentions of one click.

    rows: for each block, K and V of both attentions, as bases (1, K, C) and parts (N, 192, C).
    queries: one (N, 48, C) per attention. index: (N, 192), the patches that the disks touch.
    embedding: (N, 192, 1), not zero where the entry of index is used, as `DensePrompts.local`
    returns it.
    """

    call: Call
    labels: Tensor
    depth: Tensor
    centres: Tensor
    coverage: Tensor
    has_previous: Tensor
    index: Tensor
    embedding: Tensor
    sigma: Tensor
    queries: list[Tensor]
    rows: list[list[Rows]]

    @classmethod
    def random(cls, call: Call, grid: tuple[int, int], device: torch.device) -> ClickAttention:
        """Random inputs for `call`. grid: (gh, gw), whose product is the number of keys."""
        draw = torch.Generator(device).manual_seed(0)
        n, keys = call.objects, call.keys

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, call.channels, generator=draw, device=device).to(call.dtype)

        labels = torch.full((n, SLOTS), -1, dtype=torch.int32, device=device)
        labels[:, : CLICKS[0]] = 1
        labels[:, SLOTS_PER_SIGN : SLOTS_PER_SIGN + CLICKS[1]] = 0
        # A band of rows, because a mask covers neighbouring patches, not scattered ones.
        coverage = torch.zeros(n, *grid, dtype=torch.uint8, device=device)
        coverage[:, : max(1, round(COVERED * grid[0]))] = 255
        used = torch.zeros(_ENTRIES, 1, device=device)
        used[: 4 * sum(CLICKS)] = 1
        order = torch.rand(n, keys, generator=draw, device=device).argsort(1)
        entries = torch.arange(_ENTRIES, device=device) % keys  # small networks have fewer patches
        index = torch.where(used.T > 0, order[:, entries], 0)
        embedding = used.expand(n, -1, -1)
        rows = [
            [Rows(normal(1, keys), normal(n, _ENTRIES) * used.to(call.dtype)) for _ in range(4)]
            for _ in range(BLOCKS_OF_FUSION)
        ]
        return cls(
            call,
            labels,
            torch.rand(1, keys, generator=draw, device=device),
            torch.rand(n, SLOTS, generator=draw, device=device),
            coverage,
            torch.ones(n, dtype=torch.bool, device=device),
            index,
            embedding,
            torch.tensor(4.0, device=device),
            [normal(n, SLOTS) for _ in range(2 * BLOCKS_OF_FUSION)],
            rows,
        )

    def by_torch(self) -> list[Tensor]:
        """Run all six attentions in PyTorch. Returns six outputs (N, 48, C)."""
        order, blocked = self._written_masks()
        allow = torch.where(blocked, _FUSED.masked_logit, 0.0).to(self.call.dtype)
        outputs = []
        for number, rows in enumerate(self.rows):
            for which in (0, 1):
                bias = (-self.sigma * order).to(self.call.dtype) if which == 0 else allow
                key, value = (self._written(row) for row in rows[2 * which : 2 * which + 2])
                query = self.queries[2 * number + which]
                outputs.append(_FUSED.attend(query, key, value, self.call.heads, bias))
        return outputs

    def by_kernels(self, blocks: Blocks) -> list[Tensor]:
        """Run all six attentions in our kernels. Returns six outputs (N, 48, C)."""
        from ois_network.kernels.launch import masked_attention  # imports Triton

        slots = self._slots()
        order, allow = SlotBias(slots, sigma=self.sigma), SlotBias(slots, allow=True)
        heads = self.call.heads
        outputs = []
        for number, (order_key, order_value, key, value) in enumerate(self.rows):
            q0, q1 = self.queries[2 * number : 2 * number + 2]
            outputs.append(masked_attention(q0, order_key, order_value, heads, order, blocks))
            outputs.append(masked_attention(q1, key, value, heads, allow, blocks))
        return outputs

    def fused_alone(self) -> Callable[[], Tensor]:
        """One object-aware attention of PyTorch, with K, V and mask already in memory."""
        _, blocked = self._written_masks()
        allow = torch.where(blocked, _FUSED.masked_logit, 0.0).to(self.call.dtype)
        key, value = (self._written(row) for row in self.rows[0][2:])
        return partial(_FUSED.attend, self.queries[1], key, value, self.call.heads, allow)

    def exact(self) -> list[Tensor]:
        """The two outputs of the first block, computed in float64."""
        order, blocked = self._written_masks()
        keys = [self._written(row).double() for row in self.rows[0]]
        q0, q1 = (query.double() for query in self.queries[:2])
        heads = self.call.heads
        return [
            equation(q0, keys[0], keys[1], heads, order=order.squeeze(1), sigma=self.sigma),
            equation(q1, keys[2], keys[3], heads, blocked=blocked.squeeze(1)),
        ]

    def _slots(self) -> Slots:
        return Slots(
            self.labels,
            self.call.keys,
            self.depth,
            self.centres,
            visible_bits(self.coverage, self.has_previous),
            Touched.of(self.index, self.embedding, self.call.keys),
        )

    def _written_masks(self) -> tuple[Tensor, Tensor]:
        """The order maps M, and where B blocks; each (N, 1, 48, K)."""
        order = order_maps(self.depth, self.centres, self.labels)
        blocked = blocked_keys(self.coverage, self.has_previous, self.labels)
        return order.unsqueeze(1), blocked.unsqueeze(1)

    def _written(self, row: Rows) -> Tensor:
        """K or V of every object, (N, K, C), as `ClickDecoder` writes it."""
        if row.part is None:
            return row.base
        return add_at(row.base.expand(self.call.objects, -1, -1), self.index, row.part)

    def error(self, outputs: list[Tensor], exact: list[Tensor]) -> float:
        """Largest relative error of the first block's two outputs; NaN if any is not finite.

        exact: as returned by `exact`.
        """
        if not all(bool(output.isfinite().all()) for output in outputs):
            return float("nan")
        pairs = list(zip(outputs, exact, strict=False))
        return max(float((got.double() - want).norm() / want.norm()) for got, want in pairs)
