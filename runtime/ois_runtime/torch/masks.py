"""Makes packed masks of the original image from logits, on the device that computed the logits.

The arithmetic is that of `pixels.postprocess`, operation by operation in float32, so the masks are
equal bit for bit. Each product and sum is its own kernel on purpose: fused into a multiply-add they
would be rounded differently. One bit per pixel leaves the device: 3 MB for a 24-megapixel mask,
instead of 4 MB of logits and 24 MB of mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.pixels import Taps

#: Largest float32 image in memory, in bytes. Larger masks are made in bands of rows.
_BAND_BYTES = 64 * 2**20

#: The sum of 2^(63 - 9 i) for i = 0..7, as a signed integer.
_GATHER = 0x8040201008040201 - 2**64


#: Low and high source index of each output position, and their weights (`pixels.Taps`).
AxisTaps = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class MaskTaps:
    """The taps of both axes on a device. A graph that packs masks reads them at every replay."""

    rows: AxisTaps
    columns: AxisTaps

    @classmethod
    def of(cls, geometry: Geometry, device: torch.device) -> MaskTaps:
        """The taps from network size to the size of the image."""
        return cls(
            _taps(geometry.height, geometry.network_height, device),
            _taps(geometry.width, geometry.network_width, device),
        )


def pack_masks(logits: Tensor, geometry: Geometry, taps: MaskTaps | None = None) -> Tensor:
    """Make packed masks (N, ceil(H * W / 8)) uint8 from logits (N, h, w) at network size.

    Each row is a mask of the original image, packed as by `ois_client.contract.masks.pack_mask`.
    taps: `MaskTaps.of` this geometry, if the caller keeps them. Raises `InvalidInput` if the shape
    is wrong.
    """
    shape = (geometry.network_height, geometry.network_width)
    if logits.dim() != 3 or tuple(logits.shape[1:]) != shape:
        raise InvalidInput(
            f"got logits of shape {tuple(logits.shape)}; expected (N, {shape[0]}, {shape[1]})"
        )
    size = geometry.height * geometry.width
    bits = logits.new_zeros((len(logits), -(-size // 8) * 8), dtype=torch.bool)
    taps = taps or MaskTaps.of(geometry, logits.device)
    band = max(1, _BAND_BYTES // (4 * geometry.width * max(1, len(logits))))
    wide = _blend(logits.float(), 2, *taps.columns)  # (N, h, W)
    for start in range(0, geometry.height, band):
        part = tuple(tap[start : start + band] for tap in taps.rows)
        inside = _blend(wide, 1, *part) > 0  # (N, band, W)
        first = start * geometry.width
        bits[:, first : first + inside[0].numel()] = inside.flatten(1)
    return pack_bits(bits)


def pack_bits(bits: Tensor) -> Tensor:
    """Pack (N, 8 k) bool into (N, k) uint8, the first of eight bits highest, as `numpy.packbits`.

    Eight bytes of 0 or 1 are read as one integer. Multiplying it by `_GATHER` moves the bit of byte
    i to bit 7 - i of the highest byte, and no two terms of the product overlap.
    """
    return ((bits.view(torch.int64) * _GATHER) >> 56).to(torch.uint8)


def _blend(
    image: Tensor, axis: int, low: Tensor, high: Tensor, low_weight: Tensor, high_weight: Tensor
) -> Tensor:
    """Interpolate `image` along `axis`; the weights broadcast over the following axes."""
    trailing = (1,) * (image.dim() - 1 - axis)
    blended = image.index_select(axis, low) * low_weight.view(-1, *trailing)
    blended += image.index_select(axis, high) * high_weight.view(-1, *trailing)
    return blended


@lru_cache(maxsize=64)
def _taps(size: int, source: int, device: torch.device) -> AxisTaps:
    taps = Taps.of(size, source)
    low, high, low_weight, high_weight = (
        torch.from_numpy(array).to(device)
        for array in (taps.low, taps.high, taps.low_weight, taps.high_weight)
    )
    return low, high, low_weight, high_weight
