"""Boundary IoU agrees with the authors' erosions, and sees what IoU does not."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ois_benchmarks.quality.boundary import NEAR, Boundary, paper_distance
from ois_network.training.clicks.robot import intersection_over_union


def boundary_by_erosion(mask: np.ndarray, distance: int) -> np.ndarray:
    """As `mask_to_boundary` of the authors does it with OpenCV."""
    square = np.ones((3, 3), bool)
    eroded = ndimage.binary_erosion(np.pad(mask, 1), square, iterations=distance)[1:-1, 1:-1]
    return mask & ~eroded


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_it_agrees_with_repeated_erosion(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    target, mask = (
        ndimage.uniform_filter(random.uniform(size=(height, width)), 5) > 0.5 for _ in range(2)
    )
    expected = []
    for distance in (NEAR, paper_distance(height, width)):
        first, second = (boundary_by_erosion(each, distance) for each in (target, mask))
        union = (first | second).sum()
        expected.append((first & second).sum() / union if union else 1.0)
    assert Boundary(target).ious(mask) == tuple(expected)


def test_the_paper_s_distance_is_2_percent_of_the_diagonal() -> None:
    assert paper_distance(300, 400) == 10
    assert paper_distance(10, 10) == 1


def test_a_coarse_outline_costs_more_than_in_iou() -> None:
    target = np.zeros((300, 400), bool)
    target[50:250, 50:350] = True
    coarse = np.zeros_like(target)
    coarse[53:247, 53:347] = True
    near, paper = Boundary(target).ious(coarse)
    assert intersection_over_union(target, coarse) > 0.95
    assert near == 0  # three pixels away
    assert 0.4 < paper < 0.6
    assert Boundary(target).ious(target.astype(np.uint8)) == (1, 1)
    assert Boundary(target).ious(np.zeros_like(target)) == (0, 0)
