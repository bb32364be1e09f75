"""What the masked attention of one click costs at least, for the floor of its time."""

from __future__ import annotations

from ois_network.kernels.click_attention import BLOCKS_OF_FUSION, CLICKS
from ois_network.kernels.slots import Call


def flops(call: Call) -> int:
    """FLOPs of a click's attention: two products of all queries with all keys, six times."""
    each = 4 * call.objects * call.queries * call.keys * call.channels
    return 2 * BLOCKS_OF_FUSION * each


def least_bytes(call: Call) -> int:
    """Bytes that any implementation must read or write once, for the floor.

    K and V of the image once for all objects; parts, queries and outputs per object; depths and
    bits.
    """
    half = call.dtype.itemsize
    each = 2 * call.keys * call.channels * half
    each += 2 * call.objects * (4 * sum(CLICKS) + call.queries) * call.channels * half
    masks = call.keys * 4 + 3 * call.objects * call.keys // 8
    return 2 * BLOCKS_OF_FUSION * each + BLOCKS_OF_FUSION * masks
