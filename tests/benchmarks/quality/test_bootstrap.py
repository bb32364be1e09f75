"""Intervals over images: objects of one image are drawn together, ratios are ratios of sums."""

from __future__ import annotations

import numpy as np
import pytest

from ois_benchmarks.quality.bootstrap import bootstrap_means, bootstrap_ratios
from ois_client.contract.errors import InvalidInput

VALUES = np.random.default_rng(0).uniform(size=(40, 2))


def width(values: np.ndarray, images: list[str] | None) -> float:
    estimate = bootstrap_means(values, images)[0]
    return estimate.high - estimate.low


def test_one_object_per_image_is_the_bootstrap_over_objects() -> None:
    assert bootstrap_means(VALUES) == bootstrap_means(VALUES, [f"i{k}" for k in range(40)])
    assert bootstrap_means(VALUES)[0].value == pytest.approx(VALUES[:, 0].mean())


def test_equal_objects_of_one_image_say_no_more_than_one_of_them() -> None:
    repeated = np.repeat(VALUES, 9, axis=0)
    images = [f"i{k // 9}" for k in range(360)]
    assert width(repeated, images) == pytest.approx(width(VALUES, None))
    assert width(repeated, None) < 0.5 * width(repeated, images)


def test_an_image_counts_by_its_objects() -> None:
    values, images = np.array([[1.0], [1.0], [1.0], [0.0]]), ["a", "a", "a", "b"]
    estimate = bootstrap_means(values, images)[0]
    assert estimate.value == 0.75
    assert (estimate.low, estimate.high) == (0, 1)  # only a, or only b


def test_a_ratio_of_sums_is_no_mean_of_ratios() -> None:
    above, below = np.array([[1.0, 0], [0, 0]]), np.array([[1.0, 0], [3, 0]])
    share, nothing = bootstrap_ratios((above, below))
    assert share is not None
    assert share.value == 0.25
    assert nothing is None  # no click of this kind


def test_a_difference_is_drawn_in_pairs() -> None:
    ones = np.ones_like(VALUES)
    shifted = bootstrap_ratios((VALUES, ones), less=(VALUES - 0.1, ones))
    assert shifted[0] is not None
    assert (shifted[0].low, shifted[0].high) == pytest.approx((0.1, 0.1))
    with pytest.raises(InvalidInput, match="paired comparison"):
        bootstrap_ratios((VALUES, ones), less=(VALUES[:3], ones[:3]))
