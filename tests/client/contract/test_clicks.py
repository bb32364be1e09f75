"""Clicks become arrays and back without change; wrong ones are refused before anything is sent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ois_client.contract.clicks import (
    SLOTS,
    SLOTS_PER_SIGN,
    Click,
    fill_slots,
    pack_clicks,
    place_clicks,
    unpack_clicks,
)
from ois_client.contract.errors import InvalidClick, InvalidInput, TooManyClicks
from ois_client.contract.geometry import Geometry

PROPERTY = settings(deadline=None, derandomize=True)

WIDTH, HEIGHT = 640, 427
GEOMETRY = Geometry.fit(WIDTH, HEIGHT, longest=518)

# Eighths are exact in float32, so that pack -> unpack can be compared for equality.
CLICKS = st.builds(
    lambda x, y, positive: Click(x / 8, y / 8, positive),
    st.integers(0, (WIDTH - 1) * 8),
    st.integers(0, (HEIGHT - 1) * 8),
    st.booleans(),
)
OBJECTS = st.lists(st.lists(CLICKS, min_size=1, max_size=SLOTS_PER_SIGN), min_size=1, max_size=4)


@PROPERTY
@given(OBJECTS)
def test_packing_and_unpacking_returns_the_same_clicks(objects):
    points, labels = pack_clicks(objects, WIDTH, HEIGHT)
    most = max(map(len, objects))
    assert (points.shape, points.dtype) == ((len(objects), most, 2), np.float32)
    assert (labels.shape, labels.dtype) == ((len(objects), most), np.int32)
    assert unpack_clicks(points, labels, WIDTH, HEIGHT) == objects


@PROPERTY
@given(OBJECTS)
def test_slots_hold_positives_first_and_negatives_from_24_in_click_order(objects):
    geometry = Geometry.fit(WIDTH, HEIGHT, longest=518)
    points, labels = fill_slots(objects, geometry)
    assert points.shape == (len(objects), SLOTS, 2)
    for row, clicks in enumerate(objects):
        for sign, first in ((True, 0), (False, SLOTS_PER_SIGN)):
            same = [click for click in clicks if click.positive == sign]
            half = slice(first, first + SLOTS_PER_SIGN)
            expected = [int(sign)] * len(same) + [-1] * (SLOTS_PER_SIGN - len(same))
            assert labels[row, half].tolist() == expected
            for slot, click in enumerate(same, start=first):
                expected_point = geometry.to_network(np.array([click.x, click.y]))
                np.testing.assert_array_equal(points[row, slot], expected_point)
    assert (points[labels == -1] == 0).all()


@pytest.mark.parametrize("positive", [True, False])
def test_24_clicks_of_one_sign_are_accepted_and_25_are_not(positive):
    clicks = [Click(1, 1, positive)] * SLOTS_PER_SIGN
    pack_clicks([clicks], WIDTH, HEIGHT)
    with pytest.raises(TooManyClicks, match="got 25"):
        pack_clicks([[*clicks, Click(2, 2, positive)]], WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (float("nan"), 1),
        (1, float("inf")),
        (-0.01, 1),
        (1, -1),
        (WIDTH - 0.5, 1),
        (1, HEIGHT),
        ("3", 1),
        (None, 1),
    ],
)
def test_clicks_off_the_image_are_refused(x, y):
    with pytest.raises(InvalidClick, match="got a click at"):
        pack_clicks([[Click(x, y)]], WIDTH, HEIGHT)


def test_the_last_pixel_is_inside():
    Click(WIDTH - 1, HEIGHT - 1).check(WIDTH, HEIGHT)
    Click(0, 0).check(1, 1)


@pytest.mark.parametrize("objects", [[], [[]], [[Click(1, 1)], []]])
def test_objects_without_clicks_are_refused(objects):
    with pytest.raises(InvalidInput, match=r"no (object|click)"):
        pack_clicks(objects, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("points", "labels", "message"),
    [
        (np.zeros((1, 2)), np.ones((1, 2)), "shape"),
        (np.zeros((1, 2, 3)), np.ones((1, 2)), "shape"),
        (np.zeros((1, 2, 2)), np.ones((1, 3)), "shape"),
        (np.zeros((1, 1, 2)), np.full((1, 1), 2), "label 2"),
        (np.zeros((1, 1, 2)), np.full((1, 1), np.nan), "label nan"),
        (np.full((1, 1, 2), "a"), np.ones((1, 1)), "type"),
        (np.full((1, 1, 2), np.nan), np.ones((1, 1)), "finite"),
    ],
)
def test_arrays_from_outside_are_checked_again(points, labels, message):
    with pytest.raises(InvalidClick, match=message):
        unpack_clicks(points, labels, WIDTH, HEIGHT)
    with pytest.raises(InvalidClick, match=message):
        place_clicks(points, labels, GEOMETRY)


@PROPERTY
@given(OBJECTS)
def test_placing_arrays_gives_the_same_slots_as_placing_clicks(objects):
    packed = pack_clicks(objects, WIDTH, HEIGHT)
    expected = fill_slots(objects, GEOMETRY)
    for got, want in zip(place_clicks(*packed, GEOMETRY), expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@PROPERTY
@given(
    st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=2, max_size=2), max_size=3),
    st.sampled_from([0.0, -0.01, WIDTH - 1.0, WIDTH - 0.5, float("nan"), float("inf")]),
    st.sampled_from([2, 60]),
)
def test_arrays_and_clicks_are_refused_in_the_same_cases(labels, x, repeats):
    labels = np.tile(np.array(labels, dtype=np.int32).reshape(-1, 2), (1, repeats // 2))
    points = np.zeros((*labels.shape, 2))
    points[:, 0, 0] = x
    objects = [
        [Click(*point, bool(label)) for point, label in zip(*row, strict=True) if label >= 0]
        for row in zip(points.tolist(), labels.tolist(), strict=True)
    ]
    try:
        pack_clicks(objects, WIDTH, HEIGHT)
    except InvalidInput:
        with pytest.raises(InvalidInput):
            place_clicks(points, labels, GEOMETRY)
        with pytest.raises(InvalidInput):
            unpack_clicks(points, labels, WIDTH, HEIGHT)
    else:
        place_clicks(points, labels, GEOMETRY)
        assert unpack_clicks(points, labels, WIDTH, HEIGHT) == objects


def test_an_empty_slot_may_hold_anything():
    points = np.array([[[3, 4], [np.nan, -7]]])
    assert unpack_clicks(points, np.array([[0, -1]]), WIDTH, HEIGHT) == [[Click(3, 4, False)]]


@pytest.mark.parametrize(
    ("text", "click"),
    [
        ("512,300", Click(512, 300)),
        ("512, 300, +", Click(512, 300)),
        ("80.5,40,-", Click(80.5, 40, False)),
        ("1,2,0", Click(1, 2, False)),
    ],
)
def test_a_click_written_as_text(text, click):
    assert Click.parse(text) == click


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "1,2,+,4", "a,b", "1;2"])
def test_text_that_is_not_a_click_is_refused_with_an_example(text):
    with pytest.raises(InvalidClick, match="512,300,-"):
        Click.parse(text)


@pytest.mark.parametrize(
    "click",
    [
        *(Click(x, 3) for x in (np.array([5]), np.array([5, 6]), 10**400, None, "5", 1j, np.nan)),
        *(Click(5, 3, positive) for positive in (None, -1, 2, "yes", np.array([True, False]))),
        *((5, 3), [5, 3], None),
    ],
    ids=str,
)
def test_what_is_no_click_is_refused_with_a_message(click):
    with pytest.raises(InvalidClick, match=r"^got .*; (expected|coordinates)"):
        pack_clicks([[Click(1, 1), click]], WIDTH, HEIGHT)


def test_numbers_of_numpy_and_0_and_1_are_clicks():
    given = [Click(np.float32(5), np.int64(3), np.True_), Click(5, 3, 0)]
    points, labels = pack_clicks([given], WIDTH, HEIGHT)
    assert points.tolist() == [[[5, 3], [5, 3]]]
    assert labels.tolist() == [[1, 0]]
