"""The masks and the keys of a click, not written out.

M and B have 48 rows of K numbers an object, and K and V of N objects are N copies that differ
in a few patches. What they are made of is small, and the kernels work from that:

    M (Eq. 1-3)   the keys' relative depths, each slot's depth            K + 48 numbers
    B (Eq. 4, 5)  which patches positives and which negatives may see     2 bits a patch
    K, V          one image's, and what the disks add in the patches that they touch
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_BITS = 32


@dataclass(frozen=True, slots=True)
class Call:
    """The size of one attention: queries (objects, queries, channels), keys (.., keys, ..)."""

    objects: int
    queries: int
    channels: int
    keys: int
    heads: int
    dtype: torch.dtype


def pack_bits(flags: Tensor) -> Tensor:
    """flags (..., K) bool -> (..., ceil(K / 32)) int32; flag k is bit k % 32 of word k // 32."""
    padded = F.pad(flags, (0, -flags.shape[-1] % _BITS)).to(torch.int32)
    places = torch.arange(_BITS, dtype=torch.int32, device=flags.device)
    words = padded.unflatten(-1, (-1, _BITS)) << places
    return words.sum(-1, dtype=torch.int32)  # distinct powers of two: bit 31 is the sign


def visible_bits(coverage: Tensor, has_previous: Tensor) -> Tensor:
    """Which patches positives (row 0) and negatives (row 1) may see: (N, 2, W) int32 bits.

    coverage (N, gh, gw) uint8, has_previous (N) bool. The rule of `order.blocked_keys`: patches
    with any foreground of the previous mask, patches with any background; a row that would see
    nothing, and an object without a previous mask, see all.
    """
    cover = coverage.flatten(1)
    visible = torch.stack((cover > 0, cover < 255), dim=1)  # (N, 2, K)
    visible |= ~visible.any(2, keepdim=True) | ~has_previous.view(-1, 1, 1)
    return pack_bits(visible)


@dataclass(frozen=True, slots=True)
class Touched:
    """The patches that an object's disks touch (rewrite R6), each once.

    index (N, P) int32: a patch, 0 where unused. fresh (N, P) bool: the entry counts; of several
    that name one patch exactly one does. bits (N, W) int32: the patches that entries count for.
    """

    index: Tensor
    fresh: Tensor
    bits: Tensor

    @classmethod
    def of(cls, index: Tensor, embedding: Tensor, keys: int) -> Touched:
        """From `DensePrompts.local`: index (N, P), embedding (N, P, C).

        An entry whose embedding is zero changes nothing, so it does not count: that leaves out
        unused entries, and all but the first of those that name one patch.
        """
        fresh = (embedding != 0).any(2)
        counts = torch.zeros(index.shape[0], keys, dtype=torch.int32, device=index.device)
        touched = counts.scatter_add(1, index, fresh.to(torch.int32)) > 0
        return cls(index.to(torch.int32), fresh, pack_bits(touched))


@dataclass(frozen=True, slots=True)
class Rows:
    """K or V: base (N or 1, K, C), and part (N, P, C) to be added at `Touched.index`, or None."""

    base: Tensor
    part: Tensor | None = None

    @classmethod
    def of(cls, rows: Tensor | Rows) -> Rows:
        return rows if isinstance(rows, Rows) else cls(rows)


@dataclass(frozen=True, slots=True)
class Slots:
    """One click of N objects with Q slots each on K patches.

    labels (N, Q) int32: 1 positive, 0 negative, -1 empty. depth (N or 1, K) and centres (N, Q)
    float32: relative depth of each patch, and the one each slot's order map is centred on; None
    where order is ablated. visible (N, 2, W) int32 from `visible_bits`, None where the object
    masks are ablated. touched: None where the dense prompts are.
    """

    labels: Tensor
    keys: int
    depth: Tensor | None = None
    centres: Tensor | None = None
    visible: Tensor | None = None
    touched: Touched | None = None


@dataclass(frozen=True, slots=True)
class SlotBias:
    """What one attention adds to its logits: -σ M, or B, or (neither set) nothing.

    sigma: σ as a tensor of one number or of one for each head, None for no order bias.
    """

    slots: Slots
    sigma: Tensor | None = None
    allow: bool = False

    def scaled(self, sigma: Tensor) -> SlotBias:
        """The order bias with this σ; nothing where order is ablated."""
        return SlotBias(self.slots, None if self.slots.depth is None else sigma)
