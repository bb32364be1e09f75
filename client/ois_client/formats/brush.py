"""Label Studio's brush masks: the image's RGBA samples, compressed by thi.ng's `rle-pack`.

The format is a stream of bits, high bit first, written as a list of bytes. Bits and fields:

    32     number of samples, 4 * H * W
    5      bits per sample, minus 1 (7 for 8 bits)
    4 x 4  the four sizes of a length field, minus 1 (2, 3, 7, 15 for 3, 4, 8, 16 bits)

and then blocks of

    1      1 for a run of equal samples, 0 for separate samples
    2      index of the size of the next field
    size   number of samples, minus 1
    8      per sample; once for a run

Label Studio shows a region where alpha is not 0, so each pixel is four equal samples, 0 or 255.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import MAX_PIXELS, Mask, check_mask, run_lengths

_SIZES = (3, 4, 8, 16)
_CHANNELS = 4
_HEADER_BITS = 32 + 5 + 4 * 4
_LONGEST_RUN = 2 ** _SIZES[-1]
_BLOCKS_AT_ONCE = 2**16


def brush_of_mask(mask: NDArray[np.generic]) -> list[int]:
    """(H, W) bool or 0/1 -> the bytes of `value.rle`, as Label Studio's converter writes them.

    Raises `InvalidInput` if it is not a mask or has more than 2**28 pixels.
    """
    mask = check_mask(mask)
    if mask.size > MAX_PIXELS:
        raise InvalidInput(f"got a mask of {mask.size} pixels; expected at most {MAX_PIXELS}")
    counts = run_lengths(mask.T)
    lengths = _CHANNELS * counts
    samples = np.zeros(counts.size, dtype=np.int64)
    samples[1::2] = 255
    lengths, samples = lengths[counts > 0], samples[counts > 0]
    # A run that is too long for the largest length field becomes several blocks.
    size = np.searchsorted([2**bits for bits in _SIZES[:-1]], lengths)
    blocks = -(-lengths // _LONGEST_RUN)
    last = np.cumsum(blocks) - 1
    rest = lengths - _LONGEST_RUN * (blocks - 1)
    lengths = np.full(int(blocks.sum()), _LONGEST_RUN, dtype=np.int64)
    lengths[last] = rest
    size, samples = np.repeat(size, blocks), np.repeat(samples, blocks)

    bits_of_length = np.array(_SIZES)[size]
    codes = (4 | size) << bits_of_length | (lengths - 1)
    pieces = [_header(_CHANNELS * mask.size)]
    for start in range(0, codes.size, _BLOCKS_AT_ONCE):
        part = slice(start, start + _BLOCKS_AT_ONCE)
        pieces.append(_bits(codes[part] << 8 | samples[part], bits_of_length[part] + 11))
    stream = np.concatenate(pieces)
    # The converter appends 1 to 8 zero bits.
    closed = np.concatenate([stream, np.zeros(8 - stream.size % 8, dtype=np.uint8)])
    values: list[int] = np.packbits(closed).tolist()
    return values


def mask_of_brush(values: Sequence[int], width: int, height: int) -> Mask:
    """The bytes of `value.rle` -> (H, W) uint8, 1 where alpha is not 0.

    Also reads masks drawn in Label Studio, whose samples can have any value. Raises
    `InvalidInput` if the data is damaged or of an image of another size.
    """
    try:
        data = bytes(iter(values))  # of a number, `bytes` alone would make so many zeros
    except (TypeError, ValueError):
        raise InvalidInput(
            "got a brush mask that is not a list of bytes; expected integers from 0 to 255"
        ) from None
    expected = _CHANNELS * width * height
    if width < 1 or height < 1 or width * height > MAX_PIXELS or 8 * len(data) < _HEADER_BITS:
        raise InvalidInput(
            f"got {len(data)} bytes of brush mask for {width}x{height} pixels; expected a complete "
            f"header and between 1 and {MAX_PIXELS} pixels"
        )
    count = int.from_bytes(data[:4], "big")
    header = int.from_bytes(data[4:7], "big") >> 3
    sample_bits = (header >> 16) + 1
    sizes = [(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    if count != expected or sample_bits != 8:
        raise InvalidInput(
            f"got a brush mask of {count} samples of {sample_bits} bits; expected {expected} of 8 "
            f"bits, four per pixel of a {width}x{height} image"
        )
    samples = _read_blocks(data, sizes, count)
    return (samples[_CHANNELS - 1 :: _CHANNELS] != 0).astype(np.uint8).reshape(height, width)


def _read_blocks(data: bytes, sizes: list[int], count: int) -> NDArray[np.uint8]:
    """The samples after the header. Reads one block after another, as each gives its length."""
    samples = np.zeros(count, dtype=np.uint8)
    done, bit, end = 0, _HEADER_BITS, 8 * len(data)
    while done < count:
        # A block's fields and first sample have at most 27 bits, which fit in five bytes.
        window = int.from_bytes(data[bit // 8 : bit // 8 + 5].ljust(5, b"\0"), "big")
        window = window << bit % 8 & 0xFFFFFFFFFF
        is_run, size = window >> 39, sizes[window >> 37 & 3]
        length = (window >> (37 - size) & ((1 << size) - 1)) + 1
        bit += 3 + size
        first = bit
        bit += 8 if is_run else 8 * length
        if bit > end or done + length > count:
            raise InvalidInput(
                f"got a damaged brush mask: it ends early or overflows after {done} of {count} "
                "samples"
            )
        if is_run:
            samples[done : done + length] = window >> (29 - size) & 255
        else:
            chunk = np.frombuffer(data[first // 8 : -(-bit // 8)], dtype=np.uint8)
            bits = np.unpackbits(chunk)[first % 8 : first % 8 + 8 * length]
            samples[done : done + length] = np.packbits(bits)
        done += length
    return samples


def _header(count: int) -> NDArray[np.uint8]:
    code = count << 5 | 7
    for bits in _SIZES:
        code = code << 4 | bits - 1
    return _bits(np.array([code]), np.array([_HEADER_BITS]))


def _bits(codes: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Concatenate the low `lengths` bits of `codes`, high bit first, one bit per uint8."""
    ends = np.cumsum(lengths)
    shift = np.repeat(ends, lengths) - np.arange(int(ends[-1])) - 1
    return (np.repeat(codes, lengths) >> shift & 1).astype(np.uint8)
