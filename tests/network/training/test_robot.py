"""The robot user clicks where SegNext's does; an exhaustive search over all pixels agrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput
from ois_network.training.clicks.robot import (
    clicks_to_reach,
    inner_distance,
    intersection_over_union,
    next_robot_click,
)


def brute_force_distance(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The distance to the nearest outside pixel, after padding by one pixel, by trying them all."""
    padded = np.pad(region, 1)
    outside = np.argwhere(~padded)
    distance = np.zeros(region.shape)
    for row, column in np.argwhere(region):
        gaps = outside - (row + 1, column + 1)
        distance[row, column] = np.sqrt((gaps**2).sum(1).min())
    return distance


def brute_force_click(
    target: NDArray[np.int8], predicted: NDArray[np.bool_], clicked: list[Click]
) -> Click:
    missing = brute_force_distance((target == 1) & ~predicted)
    added = brute_force_distance((target == 0) & predicted)
    for click in clicked:
        missing[int(click.y), int(click.x)] = added[int(click.y), int(click.x)] = 0
    positive = bool(missing.max() > added.max())
    depth = missing if positive else added
    for row in range(depth.shape[0]):
        for column in range(depth.shape[1]):
            if depth[row, column] == depth.max():
                return Click(float(column), float(row), positive)
    raise AssertionError


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 14), width=st.integers(1, 14))
def test_every_click_is_the_one_an_exhaustive_search_finds(
    seed: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    target = rng.choice([-1, 0, 1, 1], (height, width)).astype(np.int8)
    predicted = rng.random((height, width)) < 0.4
    clicked: list[Click] = []
    for _ in range(3):
        click = next_robot_click(target, predicted, clicked)
        assert click == brute_force_click(target, predicted, clicked)
        clicked.append(click)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_distance_is_exact(seed: int) -> None:
    region = np.random.default_rng(seed).random((9, 13)) < 0.8
    np.testing.assert_allclose(inner_distance(region), brute_force_distance(region), rtol=1e-6)


def test_the_first_click_is_the_deepest_point_of_the_object() -> None:
    target = np.zeros((21, 31), dtype=np.int8)
    target[3:18, 5:20] = 1
    click = next_robot_click(target, np.zeros_like(target, dtype=bool))
    assert click == Click(12.0, 10.0, True)


def test_equally_deep_errors_give_a_negative_click() -> None:
    target = np.zeros((5, 12), dtype=np.int8)
    target[1:4, 1:4] = 1
    predicted = np.zeros_like(target, dtype=bool)
    predicted[1:4, 8:11] = True
    assert next_robot_click(target, predicted) == Click(9.0, 2.0, False)


def test_an_object_at_the_border_is_not_clicked_on_the_border() -> None:
    target = np.ones((11, 11), dtype=np.int8)
    assert next_robot_click(target, np.zeros_like(target, dtype=bool)) == Click(5.0, 5.0, True)


def test_shapes_must_agree() -> None:
    with pytest.raises(InvalidInput, match=r"\(3, 4\)"):
        next_robot_click(np.zeros((3, 4)), np.zeros((4, 3)))


def test_iou_ignores_what_is_labelled_so() -> None:
    target = np.array([[1, 1, 0, -1]])
    predicted = np.array([[1, 0, 1, 1]], dtype=bool)
    assert intersection_over_union(target, predicted) == pytest.approx(1 / 3)
    assert intersection_over_union(np.zeros((2, 2)), np.zeros((2, 2))) == 1.0


def test_noc_counts_the_first_success_and_the_limit_otherwise() -> None:
    ious = [0.5, 0.9, 0.85, 0.95]
    assert clicks_to_reach(ious, 0.9) == 2
    assert clicks_to_reach(ious, 0.95) == 4
    assert clicks_to_reach(ious, 0.96) == 20
    assert clicks_to_reach([0.99] * 30, 0.999, most=7) == 7
