"""Frames between page and gateway: round trips, and damaged frames are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ois_cli.demo.gateway.frames import read_frame, write_frame
from ois_client.contract.errors import InvalidInput

names = st.text(min_size=1, max_size=8)
heads = st.dictionaries(
    names.filter(lambda name: name != "parts"),
    st.integers() | st.text() | st.booleans() | st.none() | st.lists(st.integers()),
)


@given(heads, st.dictionaries(names, st.binary(max_size=64)))
def test_a_frame_is_read_as_it_was_written(
    head: dict[str, object], parts: dict[str, bytes]
) -> None:
    assert read_frame(write_frame(head, parts)) == (head, parts)


@given(st.binary(max_size=64))
def test_other_bytes_are_not_a_frame(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="expected a frame"):
        read_frame(data)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("[1]", b""),
        ("[" * 100_000, b""),
        ('{"a": ' * 100_000, b""),
        (r'{"name": "\ud800"}', b""),
        (r'{"objects": ["\udfff"]}', b""),
        (r'{"\ud800": 1}', b""),
        ('{"parts": 3}', b""),
        ('{"parts": [["a", -1]]}', b""),
        ('{"parts": [["a", true]]}', b"1"),
        ('{"parts": [["a", 1], ["a", 1]]}', b"12"),
        ('{"parts": [["a", 2]]}', b"1"),
        ('{"parts": [["a", 1]]}', b"12"),
    ],
)
def test_a_damaged_head_is_refused(text: str, rest: bytes) -> None:
    with pytest.raises(InvalidInput, match="expected a frame"):
        read_frame(len(text).to_bytes(4, "big") + text.encode() + rest)
