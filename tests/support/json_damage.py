"""Documents with one value replaced or removed, for what comes from other programs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
)
VALUES = st.one_of(
    LEAVES,
    st.lists(LEAVES, max_size=3),
    st.dictionaries(st.sampled_from(["value", "result", "data", "x"]), LEAVES, max_size=2),
)


def paths(value: Any, *before: Any) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*before, key)
        if isinstance(inner, dict | list):
            yield from paths(inner, *before, key)


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """The document with one part replaced by any value, or taken away."""
    result = copy.deepcopy(document)
    *way, last = draw(st.sampled_from(list(paths(document))))
    parent = result
    for key in way:
        parent = parent[key]
    if draw(st.booleans()):
        del parent[last]
    else:
        parent[last] = draw(VALUES)
    return result
