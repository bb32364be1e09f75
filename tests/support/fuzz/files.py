"""Damage to image files that keeps their structure: PNG chunks with checksums, JPEG segments."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

from support.fuzz.damage import damaged_bytes

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def good_files() -> list[bytes]:
    """A small picture in every format, and a JPEG that EXIF rotates."""
    pixels = np.random.default_rng(3).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    files = []
    for form in _FORMATS:
        file = io.BytesIO()
        picture.save(file, form)
        files.append(file.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif)
    grey = io.BytesIO()
    picture.convert("P").save(grey, "PNG", transparency=0)
    return [*files, file.getvalue(), grey.getvalue()]


def damaged_file(dice: random.Random, files: list[bytes]) -> bytes:
    data = dice.choice(files)
    if data.startswith(_SIGNATURE) and dice.random() < 0.7:
        return _png(dice, data)
    if data.startswith(b"\xff\xd8") and dice.random() < 0.6:
        return _jpeg(dice, data)
    return damaged_bytes(dice, data, files)


def _png(dice: random.Random, data: bytes) -> bytes:
    """Other contents, order or number of chunks, with checksums that are right."""
    chunks, at = [], len(_SIGNATURE)
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    for _ in range(dice.choice((1, 1, 2))):
        at = dice.randrange(len(chunks))
        name, content = chunks[at]
        change = dice.random()
        if change < 0.6:
            chunks[at] = name, damaged_bytes(dice, content)
        elif change < 0.7:
            chunks.insert(at, chunks[dice.randrange(len(chunks))])
        elif change < 0.8 and len(chunks) > 1:
            chunks.pop(at)
        elif change < 0.9:
            new = dice.choice((b"eXIf", b"iCCP", b"acTL", b"fdAT", b"tRNS", b"zTXt", b"PLTE"))
            chunks.insert(at, (new, dice.randbytes(dice.randrange(60))))
        else:
            dice.shuffle(chunks)
    parts = [_SIGNATURE]
    for name, content in chunks:
        checked = name + content
        parts.append(struct.pack(">I", len(content)) + checked)
        parts.append(struct.pack(">I", zlib.crc32(checked)))
    return b"".join(parts)


def _jpeg(dice: random.Random, data: bytes) -> bytes:
    """One segment changed, removed, repeated, or with a length that is wrong."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", data, at + 2)
        segments.append(data[at : at + 2 + size])
        at += 2 + size
    rest = data[at:]
    number = dice.randrange(len(segments))
    one, change = segments[number], dice.random()
    if change < 0.6:
        content = damaged_bytes(dice, one[4:])[:65_000]
        segments[number] = one[:2] + struct.pack(">H", len(content) + 2) + content
    elif change < 0.75:
        segments.insert(number, one)
    elif change < 0.85:
        segments.pop(number)
    else:
        segments[number] = one[:2] + dice.randbytes(2) + one[4:]
    return data[:2] + b"".join(segments) + rest
