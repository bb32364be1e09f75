"""Damage to protobuf messages that keeps their structure: fields, wire types and lengths.

A message is read without its schema, field by field; what is length-delimited is taken for a
message of its own where it can be read as one. So changes reach tensors inside requests.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from support.fuzz.damage import EDGES, damaged_bytes

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Field:
    """number, wire: of the field's key. value: of a varint. data: of any other."""

    number: int
    wire: int
    value: int = 0
    data: bytes = b""


def damaged_message(dice: random.Random, data: bytes) -> bytes:
    """The message after one to three changes to its fields, and sometimes to its bytes."""
    for _ in range(dice.choice((1, 1, 2, 3))):
        data = _changed(dice, data)
    return damaged_bytes(dice, data) if dice.random() < 0.15 else data


def fields_of(data: bytes) -> list[Field] | None:
    """The fields of a message, or None if the bytes are none."""
    fields, at = [], 0
    try:
        while at < len(data):
            key, at = _varint(data, at)
            number, wire = key >> 3, key & 7
            if number == 0:
                return None
            if wire == VARINT:
                value, at = _varint(data, at)
                fields.append(Field(number, wire, value))
                continue
            size = {FIXED64: 8, FIXED32: 4}.get(wire)
            if wire == BYTES:
                size, at = _varint(data, at)
            if size is None or at + size > len(data):
                return None
            fields.append(Field(number, wire, 0, data[at : at + size]))
            at += size
    except IndexError:
        return None
    return fields


def bytes_of(fields: list[Field]) -> bytes:
    parts = []
    for one in fields:
        parts.append(_written((one.number << 3) | one.wire))
        if one.wire == VARINT:
            parts.append(_written(one.value))
        elif one.wire == BYTES:
            parts += [_written(len(one.data)), one.data]
        else:
            parts.append(one.data)
    return b"".join(parts)


def _changed(dice: random.Random, data: bytes, depth: int = 0) -> bytes:
    fields = fields_of(data)
    if not fields or depth > 4:
        return damaged_bytes(dice, data)
    at = dice.randrange(len(fields))
    one, change = fields[at], dice.random()
    if change < 0.08:
        fields.pop(at)
    elif change < 0.18:
        fields[at:at] = [one] * dice.choice((1, 2, 40))
    elif change < 0.24:
        fields[at] = replace(one, number=dice.choice((1, 2, 3, 4, 5, 6, 7, 15, 16, 2**29 - 1)))
    elif change < 0.3:
        fields.insert(dice.randrange(len(fields) + 1), fields.pop(at))
    elif change < 0.36:
        return _lying(dice, fields, at)
    elif one.wire == VARINT:
        fields[at] = replace(one, value=dice.choice(EDGES) % 2**64)
    else:
        fields[at] = replace(one, data=_sized(dice, one, depth))
    return bytes_of(fields)


def _sized(dice: random.Random, one: Field, depth: int) -> bytes:
    if one.wire != BYTES:
        return dice.randbytes(len(one.data))
    return _changed(dice, one.data, depth + 1)


def _lying(dice: random.Random, fields: list[Field], at: int) -> bytes:
    """The field at `at` announces another length, or has another wire type."""
    one = fields[at]
    before, after = bytes_of(fields[:at]), bytes_of(fields[at + 1 :])
    wire = dice.choice((one.wire, *range(8)))
    length = dice.choice(EDGES) % 2**64
    return before + _written((one.number << 3) | wire) + _written(length) + one.data + after


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Raises `IndexError` if there is none."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise IndexError("more than ten bytes")


def _written(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
