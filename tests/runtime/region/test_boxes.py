"""Boxes contain all that may be foreground, are few, and grow where they are too small."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ois_client.contract.clicks import EMPTY, NEGATIVE, POSITIVE, SLOTS
from ois_runtime.engines.region.boxes import SIDES, Box, active_patches, boxes_around, grown
from ois_runtime.engines.region.windows import CELLS, TailForm

FORM = TailForm(14, 1, aligned=True)


def _filled(shape: tuple[int, int], boxes: list[Box]) -> np.ndarray:
    active = np.zeros(shape, dtype=np.bool_)
    for top, left, bottom, right in boxes:
        active[top:bottom, left:right] = True
    return active


@given(
    shape=st.tuples(st.integers(1, 45), st.integers(1, 75)),
    spots=st.lists(
        st.tuples(st.floats(0, 0.99), st.floats(0, 0.99), st.integers(1, 9)), max_size=4
    ),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_boxes_contain_all_that_is_active(
    shape: tuple[int, int], spots: list[tuple[float, float, int]]
) -> None:
    corners = [(int(y * shape[0]), int(x * shape[1]), size) for y, x, size in spots]
    active = _filled(shape, [Box(y, x, y + size, x + size) for y, x, size in corners])
    boxes = boxes_around(active, FORM)
    if boxes is None:
        return
    assert not (active & ~_filled(shape, boxes)).any()
    for box in boxes:
        assert 0 <= box.top < box.bottom <= shape[0]
        assert 0 <= box.left < box.right <= shape[1]
        assert box.rows in (*SIDES, shape[0])
        assert box.columns in (*SIDES, shape[1])


def test_two_distant_spots_are_two_boxes_and_near_ones_are_one() -> None:
    apart = _filled((41, 73), [Box(2, 2, 6, 6), Box(30, 60, 36, 70)])
    assert len(boxes_around(apart, FORM) or []) == 2
    together = _filled((41, 73), [Box(10, 10, 14, 14), Box(15, 15, 19, 19)])
    assert len(boxes_around(together, FORM) or []) == 1


def test_a_large_object_is_decoded_whole_and_nothing_is_no_box() -> None:
    assert boxes_around(_filled((41, 73), [Box(2, 2, 40, 70)]), FORM) is None
    assert boxes_around(np.zeros((41, 73), dtype=np.bool_), FORM) == []


def test_patches_are_active_around_the_coarse_map_and_positive_clicks() -> None:
    coarse = np.full((10 * CELLS, 20 * CELLS), -5, dtype=np.float32)
    coarse[5 * CELLS + 1, 3 * CELLS + 2] = -0.5
    points = np.zeros((SLOTS, 2), dtype=np.float32)
    labels = np.full(SLOTS, EMPTY, dtype=np.int32)
    points[0], labels[0] = (15 * 14 + 6, 14), POSITIVE  # near the border of two patches
    points[1], labels[1] = (3, 135), NEGATIVE
    active = active_patches(coarse, -1, points, labels, 14)
    expected = _filled((10, 20), [Box(4, 2, 7, 5), Box(0, 14, 3, 17)])
    np.testing.assert_array_equal(active, expected)


def test_a_box_grows_where_foreground_touches_its_border() -> None:
    logits = np.full((20 * 14, 30 * 14), -1, dtype=np.float32)
    box = Box(0, 10, 8, 18)
    assert grown(box, logits, 14) == []
    logits[0, 12 * 14] = 1  # the image's border: nothing to decode there
    assert grown(box, logits, 14) == []
    logits[20, 18 * 14 - 1] = 1
    assert grown(box, logits, 14) == [Box(0, 18, 8, 20)]
    logits[8 * 14 - 1, 11 * 14] = 1
    assert grown(box, logits, 14) == [Box(8, 10, 10, 18), Box(0, 18, 8, 20)]
