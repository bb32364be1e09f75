"""What the napari plugin sends and writes. The real napari: tests/scenarios/examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ois_client import Click, InvalidInput
from ois_client.napari.planes import changes, check_axes, picture_of, place_of, points_of

DICE = np.random.default_rng(4)


@given(st.integers(0, 2), st.floats(-0.5, 89.49), st.floats(-0.5, 119.49))
def test_a_position_and_its_click_are_the_same_place(plane: int, y: float, x: float) -> None:
    place, at_x, at_y = place_of((plane, y, x), (3, 90, 120))
    assert place == (plane,)
    assert 0 <= at_x <= 119
    assert 0 <= at_y <= 89
    [point] = points_of([Click(at_x, at_y, True)], place)
    np.testing.assert_allclose(point, (plane, y, x), atol=0.51)
    if 0 <= x <= 119 and 0 <= y <= 89:  # a float32 in a Click
        np.testing.assert_allclose(point, (plane, y, x), rtol=1e-6)


@pytest.mark.parametrize("position", [(0, -1, 5), (0, 5, 120), (3, 5, 5), (-1, 5, 5)])
def test_a_position_outside_is_refused(position: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput, match="120x90"):
        place_of(position, (3, 90, 120))


def test_only_planes_of_the_last_axes_are_shown_to_the_network() -> None:
    check_axes((1, 2), 3)
    for displayed in ((0, 2), (2, 1), (0, 1, 2)):
        with pytest.raises(InvalidInput, match="2D"):
            check_axes(displayed, 3)


def test_a_colour_picture_is_unchanged() -> None:
    colours = DICE.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(picture_of(colours, (), True, (0, 255)), colours)
    with_alpha = np.concatenate([colours, np.full((4, 6, 1), 9, dtype=np.uint8)], axis=-1)
    np.testing.assert_array_equal(picture_of(with_alpha, (), True, (0, 255)), colours)
    np.testing.assert_array_equal(picture_of(colours / 255.0, (), True, (0, 1)), colours)


def test_grey_values_are_shown_at_the_layer_s_contrast() -> None:
    stack = np.array([[[0, 0]], [[100, 300]], [[500, 60000]]], dtype=np.uint16)
    for place, expected in (((1,), [0, 255]), ((2,), [255, 255]), ((0,), [0, 0])):
        shown = picture_of(stack, place, False, (100, 300))
        assert (shown.shape, shown.dtype) == ((1, 2, 3), np.uint8)
        assert (shown == np.array(expected)[None, :, None]).all()
    assert picture_of(np.array([[np.nan, np.inf, 0.5]]), (), False, (0, 1))[0, :, 0].tolist() == [
        0,
        255,
        128,
    ]
    assert picture_of(np.array([[7, 7]]), (), False, (7, 7)).max() == 0  # a flat image


@pytest.mark.parametrize("keep_others", [True, False])
@given(seed=st.integers(0, 50))
def test_a_mask_replaces_its_label_and_only_that(seed: int, keep_others: bool) -> None:
    dice = np.random.default_rng(seed)
    before = dice.integers(0, 4, (5, 7)).astype(np.uint16)
    mask = dice.integers(0, 2, (5, 7), dtype=np.uint8)
    after = before.copy()
    where, values = changes(before, 2, mask, keep_others)
    assert (after[where] != values).all()  # nothing is written twice
    after[where] = values
    others = (before != 0) & (before != 2)
    if keep_others:
        np.testing.assert_array_equal(after[others], before[others])
        np.testing.assert_array_equal(after == 2, (mask == 1) & ~others)
    else:
        np.testing.assert_array_equal(after == 2, mask == 1)
        np.testing.assert_array_equal((after != before) & (mask == 0), (before == 2) & (mask == 0))
