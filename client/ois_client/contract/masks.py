"""Masks, and their encodings: packed bits, PNG, COCO RLE.

A mask is (H, W) uint8 in pixels of the original image, 1 = object, 0 = background. Every decoder
checks sizes before it allocates memory and refuses input that is not exactly a mask.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.errors import InvalidInput

Mask = NDArray[np.uint8]

#: Largest mask that a decoder accepts when the size comes from the data.
MAX_PIXELS = 2**28


class MaskFormat(StrEnum):
    """An encoding of a mask."""

    media_type: str
    suffix: str
    #: whether the data contains width and height
    has_size: bool

    PACKED = "packed", "application/octet-stream", ".bits", False
    PNG = "png", "image/png", ".png", True
    COCO_RLE = "coco-rle", "application/json", ".rle.json", True
    COCO_COUNTS = "coco-counts", "application/json", ".counts.json", True

    def __new__(cls, value: str, media_type: str, suffix: str, has_size: bool) -> MaskFormat:
        member = str.__new__(cls, value)
        member._value_ = value
        member.media_type = media_type
        member.suffix = suffix
        member.has_size = has_size
        return member


def check_mask(mask: NDArray[np.generic]) -> Mask:
    """(H, W) bool or integer 0/1 -> the same as uint8. Raises `InvalidInput` for anything else."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0:
        raise InvalidInput(
            f"got a mask of shape {mask.shape}; expected (H, W), at least 1 pixel per side"
        )
    if mask.dtype.kind not in "biu":
        raise InvalidInput(f"got a mask of type {mask.dtype}; expected bool or integers 0 and 1")
    if mask.dtype.kind != "b" and (mask.max() > 1 or mask.min() < 0):
        raise InvalidInput(
            f"got a mask with values {mask.min()}..{mask.max()}; expected 0 (background) and "
            "1 (object), for example `mask > 0`"
        )
    return mask.astype(np.uint8, copy=False)


def encode_mask(mask: NDArray[np.generic], form: MaskFormat) -> bytes:
    """mask: (H, W) bool or 0/1 -> bytes in `form`; the COCO forms are UTF-8 JSON."""
    if form is MaskFormat.PACKED:
        return pack_mask(mask)
    if form is MaskFormat.PNG:
        return png_of_mask(mask)
    return json.dumps(coco_of_mask(mask, compressed=form is MaskFormat.COCO_RLE)).encode()


def decode_mask(data: bytes, form: MaskFormat, width: int, height: int) -> Mask:
    """Bytes in `form` -> (H, W) uint8 0/1 of `width` x `height` pixels.

    Raises `InvalidInput` if the data is damaged or the mask has another size.
    """
    if form is MaskFormat.PACKED:
        return unpack_mask(data, width, height)
    if form is MaskFormat.PNG:
        return mask_of_png(data, expected=(width, height))
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"got a COCO RLE that is not JSON: {error}") from error
    return mask_of_coco(value, expected=(width, height))


def pack_mask(mask: NDArray[np.generic]) -> bytes:
    """(H, W) -> ceil(H * W / 8) bytes: row-major bits, high bit first, rows not padded."""
    return np.packbits(check_mask(mask)).tobytes()


def unpack_mask(data: bytes, width: int, height: int) -> Mask:
    """The inverse of `pack_mask`. Raises `InvalidInput` if the number of bytes is wrong."""
    expected = (width * height + 7) // 8
    if width < 1 or height < 1 or len(data) != expected:
        raise InvalidInput(
            f"got {len(data)} bytes of packed mask; expected {expected} for {width}x{height} "
            "pixels, one bit per pixel"
        )
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=width * height)
    return bits.reshape(height, width)


def png_of_mask(mask: NDArray[np.generic]) -> bytes:
    """(H, W) -> a 1-bit grey PNG with a white object."""
    mask = check_mask(mask)
    height, width = mask.shape
    file = io.BytesIO()
    rows = np.packbits(mask, axis=1).tobytes()
    Image.frombytes("1", (width, height), rows).save(file, format="PNG")
    return file.getvalue()


def mask_of_png(data: bytes, *, expected: tuple[int, int] | None = None) -> Mask:
    """A 1-bit or 8-bit grey PNG -> (H, W) uint8 0/1; every value above 0 is object.

    expected: (width, height) that the mask must have. Raises `InvalidInput` if it has another
    size, or the data is not a PNG of that kind.
    """
    from PIL import PngImagePlugin

    try:
        picture = PngImagePlugin.PngImageFile(io.BytesIO(data))
        _check_size(*picture.size, expected)
        if picture.mode not in ("1", "L"):
            raise InvalidInput(
                f"got a mask PNG of Pillow mode {picture.mode!r}; expected 1-bit or 8-bit grey"
            )
        return (np.asarray(picture) != 0).astype(np.uint8)
    except InvalidInput:
        raise
    except Exception as error:  # decoders raise every built-in type on damaged data
        raise InvalidInput(
            f"got {len(data)} bytes that are not a complete PNG ({type(error).__name__}: {error})"
        ) from error


def coco_of_mask(mask: NDArray[np.generic], *, compressed: bool = True) -> dict[str, Any]:
    """(H, W) -> COCO's `{"size": [H, W], "counts": ...}`, which can be written as JSON.

    counts: the string that pycocotools writes, or with `compressed=False` a list of run
    lengths.
    """
    mask = check_mask(mask)
    counts = run_lengths(mask)
    return {
        "size": list(mask.shape),
        "counts": compress_counts(counts) if compressed else counts.tolist(),
    }


def mask_of_coco(value: Any, *, expected: tuple[int, int] | None = None) -> Mask:
    """COCO RLE with counts as a string or a list -> (H, W) uint8 0/1.

    expected: (width, height) that the mask must have. Raises `InvalidInput` if the value is not
    a COCO RLE, its counts do not add up to the size, or the size is not the expected one.
    """
    if not isinstance(value, dict) or not {"size", "counts"} <= value.keys():
        raise InvalidInput(
            'got a value that is not a COCO RLE; expected {"size": [height, width], "counts": ...}'
        )
    size, counts = value["size"], value["counts"]
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(isinstance(side, int) for side in size)
    ):
        raise InvalidInput(f"got the COCO RLE size {size!r}; expected [height, width]")
    height, width = size
    _check_size(width, height, expected)
    if isinstance(counts, str | bytes):
        runs = decompress_counts(counts)
    elif isinstance(counts, list | tuple):
        runs = _counts_of_list(counts)
    else:
        raise InvalidInput(
            f"got COCO counts of type {type(counts).__name__}; expected a string or a list"
        )
    return mask_of_runs(runs, width, height)


def _check_size(width: int, height: int, expected: tuple[int, int] | None) -> None:
    if expected is not None and (width, height) != expected:
        raise InvalidInput(
            f"got a mask of {width}x{height} pixels; expected {expected[0]}x{expected[1]}, the "
            "size of the image it belongs to"
        )
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InvalidInput(
            f"got a mask of {width}x{height} pixels; expected between 1 and {MAX_PIXELS} pixels"
        )


# -- COCO's run lengths ---------------------------------------------------------------------------
#
# `counts` are the lengths of the runs of background, foreground, background, ... over the mask in
# column-major order. The first is 0 if the mask begins with foreground. COCO writes counts as a
# list or as a string. The string has one or more characters per count (from the fourth count on,
# per difference to the count two before): groups of 5 bits, low first, plus bit 5 if more groups
# follow, plus 48 to make ASCII; bit 4 of the last group is the sign. Both directions work on whole
# arrays, because masks can have many runs.

_MOST_GROUPS = 7  # 35 bits: any difference of two 32-bit counts


def run_lengths(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """A checked mask, (H, W) uint8 0/1 -> counts, int64."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts_with = [0, 0] if flat[0] else [0]
    return np.diff(np.concatenate((starts_with, changes, [flat.size])))


def mask_of_runs(counts: NDArray[np.int64], width: int, height: int) -> Mask:
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


def compress_counts(counts: NDArray[np.int64]) -> str:
    """Counts -> COCO's compressed string, as pycocotools writes it."""
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    columns, used = [], []
    more = np.ones(rest.size, dtype=bool)
    while more.any():
        used.append(more)
        group = rest & 31
        rest = rest >> 5
        # A count is complete when only copies of the sign bit just written remain.
        more = more & (rest != np.where(group & 16, -1, 0))
        columns.append((group + 48 + 32 * more).astype(np.uint8))
    table, written = np.stack(columns, axis=1), np.stack(used, axis=1)
    return table[written].tobytes().decode("ascii")


def decompress_counts(text: str | bytes) -> NDArray[np.int64]:
    """COCO's compressed string -> counts. Raises `InvalidInput` if it is damaged."""
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


def _counts_of_list(values: Sequence[int]) -> NDArray[np.int64]:
    """A list from JSON -> counts. Raises `InvalidInput` if an element is not an integer."""
    try:
        counts = np.asarray(values)
    except (ValueError, OverflowError):
        counts = np.empty(0)
    if counts.ndim != 1 or counts.dtype.kind not in "iu":
        raise InvalidInput("got RLE counts that are not a list of integers")
    return counts.astype(np.int64)
