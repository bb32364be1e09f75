"""The compact inputs of a click's attention, from which the kernels compute.

M and B have 48 x K numbers per object, and the K and V of N objects are N copies that differ in
few patches. Their inputs are much smaller:

    M (Eq. 1-3)   the relative depth of each key and of each slot            K + 48 numbers
    B (Eq. 4, 5)  which patches positive and negative slots may attend to    2 bits per patch
    K, V          those of the image, and what the disks add in the patches that they touch
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_BITS = 32


@dataclass(frozen=True, slots=True)
class Call:
    """The size of one attention: Q (objects, queries, channels), K and V (.., keys, channels)."""

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
    return words.sum(-1, dtype=torch.int32)  # a sum of distinct powers of two; bit 31 is the sign


def visible_bits(coverage: Tensor, has_previous: Tensor) -> Tensor:
    """The patches that positive (row 0) and negative slots (row 1) may attend to, as packed bits.

    coverage (N, gh, gw) uint8, has_previous (N) bool -> (N, 2, W) int32. As in
    `order.blocked_keys`: patches with any foreground of the previous mask, and patches with any
    background. All patches, if there would be none or the object has no previous mask.
    """
    cover = coverage.flatten(1)
    visible = torch.stack((cover > 0, cover < 255), dim=1)  # (N, 2, K)
    visible |= ~visible.any(2, keepdim=True) | ~has_previous.view(-1, 1, 1)
    return pack_bits(visible)


@dataclass(frozen=True, slots=True)
class Touched:
    """The patches that the disks of an object touch (rewrite R6).

    index: (N, P) int32, patch numbers; several entries can name one patch. fresh: (N, P) bool,
    True for exactly one entry per touched patch, the one that counts. bits: (N, W) int32, the
    touched patches as packed bits.
    """

    index: Tensor
    fresh: Tensor
    bits: Tensor

    @classmethod
    def of(cls, index: Tensor, embedding: Tensor, keys: int) -> Touched:
        """From the index (N, P) and embedding (N, P, C) of `DensePrompts.local`.

        Entries with a zero embedding do not count. These are the unused ones, and all but the first
        of several that name one patch.
        """
        fresh = (embedding != 0).any(2)
        counts = torch.zeros(index.shape[0], keys, dtype=torch.int32, device=index.device)
        touched = counts.scatter_add(1, index, fresh.to(torch.int32)) > 0
        return cls(index.to(torch.int32), fresh, pack_bits(touched))


@dataclass(frozen=True, slots=True)
class Rows:
    """K or V: base (N or 1, K, C), and part (N, P, C) to add at `Touched.index`, or None."""

    base: Tensor
    part: Tensor | None = None

    @classmethod
    def of(cls, rows: Tensor | Rows) -> Rows:
        """`rows`, as `Rows` if it is a tensor."""
        return rows if isinstance(rows, Rows) else cls(rows)


@dataclass(frozen=True, slots=True)
class Slots:
    """A click on N objects with Q slots each and `keys` patches.

    labels: (N, Q) int32; 1 positive, 0 negative, -1 empty. depth: (N or 1, K) float32, the relative
    depth of each patch. centres: (N, Q) float32, the depth on which each slot's order map is
    centred. visible: see `visible_bits`. None means ablated: depth and centres if there are no
    order maps, visible if there are no object masks, touched if there are no dense prompts.
    """

    labels: Tensor
    keys: int
    depth: Tensor | None = None
    centres: Tensor | None = None
    visible: Tensor | None = None
    touched: Touched | None = None


@dataclass(frozen=True, slots=True)
class SlotBias:
    """What an attention adds to its logits: -σ M if `sigma` is set, B if `allow`, or nothing.

    sigma: σ as a tensor, (1) or (heads).
    """

    slots: Slots
    sigma: Tensor | None = None
    allow: bool = False

    def scaled(self, sigma: Tensor) -> SlotBias:
        """The order bias with this σ; no bias if order is ablated."""
        return SlotBias(self.slots, None if self.slots.depth is None else sigma)
