"""Frames: a JSON object and named binary parts in one HTTP body, for requests and responses.

    4 bytes   length of the head, big-endian
    head      UTF-8 JSON object; its "parts" lists [name, number of bytes] in order
    parts     one after another

Unlike JSON alone, it needs no base64 for masks. Unlike multipart forms, the page can read it
without a library (`page/session/api.js`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ois_client.contract.errors import InvalidInput

MEDIA_TYPE = "application/octet-stream"

_PREFIX = 4
#: Most bytes of a head, which has the names of all objects if all images are saved.
_LONGEST_HEAD = 2**23


def write_frame(head: Mapping[str, Any], parts: Mapping[str, bytes]) -> bytes:
    """Return the bytes of a frame. `head` must not have the key "parts"."""
    listed = [[name, len(data)] for name, data in parts.items()]
    text = json.dumps({**head, "parts": listed}, allow_nan=False).encode()
    return b"".join((len(text).to_bytes(_PREFIX, "big"), text, *parts.values()))


def read_frame(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the head without "parts", and the parts by name.

    Raises `InvalidInput` if the bytes are not a frame or the head has text that is not Unicode.
    """
    length = int.from_bytes(data[:_PREFIX], "big")
    at = _PREFIX + length
    if len(data) < _PREFIX or length > _LONGEST_HEAD or at > len(data):
        raise _damaged(f"{len(data)} bytes whose head would be {length} bytes long")
    try:
        head = json.loads(data[_PREFIX:at])
        # JSON can spell lone surrogates, which no response could be encoded with.
        json.dumps(head, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _damaged(f"a head that is not JSON in UTF-8 ({error})") from error
    if not isinstance(head, dict):
        raise _damaged(f"a head of type {type(head).__name__}")
    parts: dict[str, bytes] = {}
    for name, size in _listed(head.pop("parts", [])):
        parts[name] = data[at : at + size]
        at += size
    if at != len(data):
        raise _damaged(f"parts of {at} bytes in a frame of {len(data)}")
    return head, parts


def _listed(parts: Any) -> list[tuple[str, int]]:
    fits = isinstance(parts, list) and all(
        isinstance(part, list)
        and len(part) == 2
        and isinstance(part[0], str)
        and type(part[1]) is int
        and part[1] >= 0
        for part in parts
    )
    if not fits or len({part[0] for part in parts}) != len(parts):
        raise _damaged('"parts" that are not a list of unique names and sizes')
    return [(name, size) for name, size in parts]


def _damaged(what: str) -> InvalidInput:
    return InvalidInput(f"got {what}; expected a frame as in gateway/frames.py")
