"""COCO's run-length code: runs down the columns, background first.

`counts` alternates background, foreground, background, ... run lengths over the mask in
column-major order; the first is 0 when the mask begins with foreground. COCO writes counts
either as a list or as a compressed string: each count (from the fourth on, its difference to
the count two before) in groups of 5 bits, low first, bit 5 = "more follows", bit 4 of the last
group = the sign, plus 48 to make ASCII. No per-run Python loop on either side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput

_MOST_GROUPS = 7  # 35 bits: any difference of two 32-bit counts


def counts_of(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """mask: (H, W) uint8 0/1, checked -> counts, int64."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts_with = [0, 0] if flat[0] else [0]
    return np.diff(np.concatenate((starts_with, changes, [flat.size])))


def mask_of(counts: NDArray[np.int64], width: int, height: int) -> NDArray[np.uint8]:
    """Counts -> (H, W) uint8 0/1. Raises `InvalidInput` unless they add up to H * W."""
    if counts.size == 0 or counts.min() < 0 or counts.max() > width * height:
        raise InvalidInput(
            f"got RLE counts that are empty, negative or larger than the {width}x{height} mask"
        )
    if int(counts.sum()) != width * height:
        raise InvalidInput(
            f"got RLE counts that add up to {int(counts.sum())} pixels; expected "
            f"{width * height} for a mask of {width}x{height}"
        )
    values = np.zeros(counts.size, dtype=np.uint8)
    values[1::2] = 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape((height, width), order="F"))


def compress(counts: NDArray[np.int64]) -> str:
    """Counts -> COCO's compressed string, as pycocotools writes it."""
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    columns, used = [], []
    more = np.ones(rest.size, dtype=bool)
    while more.any():
        used.append(more)
        group = rest & 31
        rest = rest >> 5
        # done once what remains is only copies of the sign bit just written
        more = more & (rest != np.where(group & 16, -1, 0))
        columns.append((group + 48 + 32 * more).astype(np.uint8))
    table, written = np.stack(columns, axis=1), np.stack(used, axis=1)
    return table[written].tobytes().decode("ascii")


def decompress(text: str | bytes) -> NDArray[np.int64]:
    """COCO's compressed string -> counts. Raises `InvalidInput` when it is not one."""
    try:
        data = text.encode("ascii") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError:
        raise InvalidInput("got an RLE string with characters outside ASCII") from None
    symbols = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    if symbols.size == 0 or symbols.min() < 0 or symbols.max() > 63 or symbols[-1] & 32:
        raise InvalidInput(
            "got a damaged RLE string; expected COCO's compressed counts (ASCII 48..111, "
            "complete), as pycocotools writes them"
        )
    last = np.flatnonzero((symbols & 32) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    if lengths.max() > _MOST_GROUPS:
        raise InvalidInput("got an RLE string with a count of more than 32 bits; it is damaged")
    place = np.arange(symbols.size) - np.repeat(first, lengths)
    counts = np.add.reduceat((symbols & 31) << (5 * place), first)
    counts -= np.where(symbols[last] & 16, np.int64(1) << (5 * lengths), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def counts_from_list(values: Sequence[int]) -> NDArray[np.int64]:
    """A list from JSON -> counts. Raises `InvalidInput` when it holds anything but integers."""
    try:
        counts = np.asarray(values)
    except (ValueError, OverflowError):
        counts = np.empty(0)
    if counts.ndim != 1 or counts.dtype.kind not in "iu":
        raise InvalidInput("got RLE counts that are not a list of integers")
    return counts.astype(np.int64)
