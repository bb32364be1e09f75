"""Damage to bytes and to JSON documents, chosen by a `random.Random`: one seed, one sequence."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

#: Integers at the edges of types, which lengths and sizes often get wrong.
EDGES = (0, 1, 2, 3, 4, 7, 8, 9, 127, 128, 255, 256, 2**15 - 1, 2**15, 2**16 - 1, 2**16)
EDGES += (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**31))


def damaged_bytes(dice: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """The bytes after one to four changes. others: parts of them may be put in."""
    for _ in range(dice.choice((1, 1, 2, 4))):
        data = dice.choice(_BYTE_CHANGES)(dice, data, others)
    return data


def _flip(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return bytes([dice.randrange(256)])
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]


def _number(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """An integer of 1, 2, 4 or 8 bytes is replaced by one at the edge of a type."""
    size, order = dice.choice((1, 2, 4, 8)), dice.choice(("little", "big"))
    at = dice.randrange(len(data) + 1)
    number = (dice.choice(EDGES) % 256**size).to_bytes(size, order)  # type: ignore[arg-type]
    return data[:at] + number + data[at + size :]


def _truncate(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _remove(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + data[at + dice.randrange(1, 64) :]


def _insert(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + _part(dice, others) + data[at:]


def _overwrite(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    part = _part(dice, others)
    at = dice.randrange(len(data) + 1)
    return data[:at] + part + data[at + len(part) :]


def _repeat(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(data) + 1)
    part = data[at : at + dice.randrange(1, 64)]
    return data[:at] + part * dice.choice((2, 3, 100)) + data[at:]


def _part(dice: random.Random, others: Sequence[bytes]) -> bytes:
    if others and dice.random() < 0.6:
        other = dice.choice(others)
        at = dice.randrange(len(other) + 1)
        return other[at : at + dice.randrange(1, 256)]
    return dice.randbytes(dice.randrange(1, 32))


_BYTE_CHANGES: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    *(_flip, _flip, _number, _number, _truncate),
    *(_remove, _insert, _overwrite, _repeat),
)


# -- JSON ----------------------------------------------------------------------------------------


def damaged_json(dice: random.Random, document: Any) -> bytes:
    """The document as JSON after changes to its tree, and sometimes to its text."""
    if dice.random() < 0.01:
        return dice.choice((b"[", b'{"a":')) * 100_000
    for _ in range(dice.choice((1, 1, 2, 3))):
        document = _changed(dice, document)
    try:
        text = json.dumps(document)
    except RecursionError:
        text = "[" * 5000
    data = text.encode()
    return damaged_bytes(dice, data) if dice.random() < 0.2 else data


def _changed(dice: random.Random, value: Any) -> Any:
    """The value with one part of it changed: usually deep inside."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(sorted(value, key=str))
        change = dice.random()
        rest = {name: one for name, one in value.items() if name != key}
        if change < 0.1:
            return rest
        if change < 0.15:
            return {**rest, str(any_value(dice))[:40]: value[key]}
        return {**value, key: _changed(dice, value[key])}
    if isinstance(value, list) and value and dice.random() < 0.8:
        at, change = dice.randrange(len(value)), dice.random()
        if change < 0.1:
            return value[:at] + value[at + 1 :]
        if change < 0.2:
            return value[:at] + [value[at]] * dice.choice((2, 3, 60)) + value[at:]
        return [*value[:at], _changed(dice, value[at]), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and dice.random() < 0.6:
        return dice.choice((-value, value + 1, value * 10**6, [value]))
    if isinstance(value, str) and dice.random() < 0.4:
        return damaged_bytes(dice, value.encode("utf-8", "replace")).decode("utf-8", "replace")
    return any_value(dice)


def any_value(dice: random.Random) -> Any:
    return dice.choice(_VALUES)(dice)


def _deep(dice: random.Random) -> Any:
    value: Any = 1
    for _ in range(dice.choice((5, 50, 900))):
        value = [value] if dice.random() < 0.5 else {"a": value}
    return value


_VALUES: tuple[Callable[[random.Random], Any], ...] = (
    lambda _: None,
    lambda dice: dice.choice((True, False)),
    lambda dice: dice.choice(EDGES),
    lambda dice: dice.choice((10**30, -(10**400), 1e308, 1e-320)),
    lambda dice: dice.choice((float("nan"), float("inf"), -0.0)),
    lambda dice: struct.unpack("<d", dice.randbytes(8))[0],
    lambda dice: dice.choice(("", "a", "\0", "\ud800", "é" * 50, "../../etc/passwd", "a" * 5000)),
    lambda dice: dice.randbytes(dice.randrange(20)).decode("latin-1"),
    lambda _: [],
    lambda _: {},
    lambda dice: [any_value(dice) for _ in range(dice.randrange(4))],
    lambda dice: {str(dice.randrange(9)): any_value(dice) for _ in range(dice.randrange(4))},
    _deep,
)
