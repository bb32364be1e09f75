"""Buckets, which graphs are captured and evicted, and the layout of a click's inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ois_client.contract.clicks import Prompts
from ois_runtime.torch.graph_pool import (
    BUCKETS,
    GraphKey,
    GraphPool,
    Layout,
    batches,
    bucket_of,
    fill_prompts,
    largest_bucket,
    prompt_layout,
)


def test_a_bucket_is_the_next_power_of_two() -> None:
    assert [bucket_of(n) for n in (1, 2, 3, 4, 5, 8, 9, 17, 33, 64)] == [
        *(1, 2, 4, 4, 8, 8, 16, 32, 64, 64)
    ]


@given(st.integers(1, 400))
def test_batches_cover_every_object_once_and_pad_less_than_they_hold(count: int) -> None:
    covered: list[int] = []
    for rows, bucket in batches(count):
        size = rows.stop - rows.start
        assert bucket in BUCKETS
        assert size <= bucket < 2 * size
        covered += range(rows.start, rows.stop)
    assert covered == list(range(count))


def test_a_click_can_be_limited_to_smaller_buckets() -> None:
    assert [largest_bucket(most) for most in (1, 2, 3, 17, 32, 57, 64, 999)] == [
        *(1, 2, 2, 16, 32, 32, 64, 64)
    ]
    assert list(batches(11, 4)) == [(slice(0, 4), 4), (slice(4, 8), 4), (slice(8, 11), 4)]


def key(number: int, rows: int = 1) -> GraphKey:
    return GraphKey((number, 1), rows)


def test_the_least_recently_used_graph_is_evicted_before_the_next_capture() -> None:
    pool: GraphPool[str] = GraphPool(2, capture_at=1)
    kept_while_capturing = []

    def capture(name: str) -> str:
        kept_while_capturing.append(len(pool))
        return name

    pool.get(key(1), lambda: capture("one"))
    pool.get(key(2), lambda: capture("two"))
    assert pool.get(key(1), lambda: capture("never")) == "one"
    pool.get(key(3), lambda: capture("three"))
    assert [number for number in (1, 2, 3) if key(number) in pool] == [1, 3]
    assert kept_while_capturing == [0, 1, 1]
    assert (pool.captures, pool.replays, pool.evictions) == (3, 1, 1)
    assert pool.grids() == {(1, 1), (3, 1)}


def test_a_capture_that_fails_leaves_nothing_behind() -> None:
    pool: GraphPool[str] = GraphPool(2, capture_at=1)

    def fails() -> str:
        raise MemoryError

    with pytest.raises(MemoryError):
        pool.get(key(1), fails)
    assert len(pool) == 0
    # It would fail again, so the next call runs without a graph.
    assert pool.get(key(1), lambda: "too early") is None
    assert pool.get(key(1), lambda: "now") == "now"


def test_a_shape_gets_a_graph_when_it_is_seen_again() -> None:
    pool: GraphPool[str] = GraphPool(2)
    assert [pool.get(key(1), lambda: "graph") for _ in range(3)] == [None, "graph", "graph"]
    assert pool.get(key(2), lambda: "other") is None
    assert (pool.captures, pool.replays) == (1, 1)


def test_captures_become_rarer_if_more_shapes_than_graphs_alternate() -> None:
    pool: GraphPool[str] = GraphPool(32)
    captures = []
    for _ in range(64):
        before = pool.captures
        for number in range(140):
            pool.get(key(number), lambda: "graph")
        captures.append(pool.captures - before)
    assert captures[0] == 0
    assert captures[1] == 140  # all shapes are captured at their second use
    assert sum(captures) <= 140 * 6  # of 140 x 64 uses; each shape after 2, 4, 8, ... of its uses
    assert sum(captures[32:]) <= 140


def test_what_was_cleared_is_not_captured_at_once() -> None:
    pool: GraphPool[str] = GraphPool(2, capture_at=1)
    pool.get(key(1), lambda: "graph")
    pool.clear()
    assert [pool.get(key(1), lambda: "again") for _ in range(2)] == [None, "again"]


def test_a_key_that_was_given_up_gets_no_graph() -> None:
    pool: GraphPool[str] = GraphPool(2, capture_at=1)
    pool.give_up(key(1))
    assert [pool.get(key(1), lambda: "graph") for _ in range(9)] == [None] * 9
    assert pool.get(key(2), lambda: "other") == "other"


def test_the_device_is_idle_before_graphs_are_dropped() -> None:
    kept_when_asked: list[int] = []
    pool: GraphPool[str] = GraphPool(1, 1, lambda: kept_when_asked.append(len(pool)))
    pool.get(key(1), lambda: "one")
    assert kept_when_asked == []
    pool.get(key(2), lambda: "two")
    pool.clear()
    pool.clear()
    assert kept_when_asked == [1, 1]


_TYPES = [np.float32, np.int32, np.uint8, np.bool_]


@given(
    st.dictionaries(
        st.text("abcdef", min_size=1, max_size=3),
        st.tuples(
            st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), st.sampled_from(_TYPES)
        ),
        min_size=1,
    )
)
def test_arrays_in_a_block_are_aligned_and_do_not_touch(arrays: dict) -> None:
    layout = Layout.of(arrays)
    block = np.zeros(layout.nbytes, dtype=np.uint8)
    views = layout.views(block)
    assert all(field.offset % 256 == 0 for field in layout.fields)
    for number, (name, (shape, kind)) in enumerate(arrays.items()):
        assert views[name].shape == shape
        assert views[name].dtype == kind
        views[name][:] = number + 1
    for number, view in enumerate(views.values()):
        np.testing.assert_array_equal(view, np.full(view.shape, number + 1).astype(view.dtype))


def test_rows_that_pad_a_bucket_hold_nothing_of_an_earlier_click() -> None:
    layout = prompt_layout(4, (2, 3))
    block = Prompts(**layout.views(np.full(layout.nbytes, 7, dtype=np.uint8)))
    rng = np.random.default_rng(0)
    prompts = Prompts(
        points=rng.random((3, 48, 2), dtype=np.float32),
        labels=rng.integers(-1, 2, (3, 48)).astype(np.int32),
        coverage=rng.integers(0, 256, (3, 2, 3)).astype(np.uint8),
        has_previous=np.array([True, False, True]),
    )
    fill_prompts(block, prompts)
    for view, array in zip(block, prompts, strict=True):
        np.testing.assert_array_equal(view[:3], array)
    fill_prompts(block, prompts.map(lambda array: array[:2]))
    for row in (2, 3):
        assert (block.labels[row] == -1).all()
        assert not any(view[row].any() for view in (block.points, block.coverage))
        assert not block.has_previous[row]
    fill_prompts(block, None)
    assert (block.labels == -1).all()
