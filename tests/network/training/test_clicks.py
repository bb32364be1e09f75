"""Simulated clicks fall where RITM's sampler puts them, and later ones on errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ois_client.contract.clicks import EMPTY, NEGATIVE, POSITIVE, SLOTS_PER_SIGN
from ois_client.contract.errors import InvalidInput
from ois_network.training.clicks.sampler import (
    ClickConfig,
    add_click,
    deepest_region_click,
    first_clicks,
    next_click,
)

Mask = NDArray[np.bool_]


def blob(seed: int, height: int = 40, width: int = 50) -> Mask:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    cy, cx = rng.uniform(8, height - 8), rng.uniform(8, width - 8)
    ry, rx = rng.uniform(4, 14, 2)
    return ((rows - cy) / ry) ** 2 + ((columns - cx) / rx) ** 2 <= 1


def at(mask: Mask, points: NDArray[np.float32]) -> NDArray[np.bool_]:
    return mask[points[..., 1].astype(int), points[..., 0].astype(int)]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), gamma=st.sampled_from([0.5, 0.8, 1.0]))
def test_first_clicks_lie_on_their_side(seed: int, gamma: float) -> None:
    target = blob(seed)
    others = blob(seed + 1) & ~target
    rng = np.random.default_rng(seed)
    points, labels = first_clicks(target, others, rng, ClickConfig(gamma=gamma))
    positive, negative = labels[:SLOTS_PER_SIGN], labels[SLOTS_PER_SIGN:]
    assert positive[0] == POSITIVE
    assert set(positive) <= {POSITIVE, EMPTY}
    assert set(negative) <= {NEGATIVE, EMPTY}
    assert at(target, points[:SLOTS_PER_SIGN][positive == POSITIVE]).all()
    assert not at(target, points[SLOTS_PER_SIGN:][negative == NEGATIVE]).any()


def test_positives_keep_away_from_the_border_of_solid_objects() -> None:
    target = np.zeros((60, 60), dtype=bool)
    target[10:50, 10:50] = True
    inner = np.zeros_like(target)
    inner[13:47, 13:47] = True  # three 3x3 erosions
    config = ClickConfig(erode_share=1.0)
    for seed in range(20):
        points, labels = first_clicks(
            target, np.zeros_like(target), np.random.default_rng(seed), config
        )
        assert at(inner, points[labels == POSITIVE]).all()


def test_thin_objects_are_not_eroded_away() -> None:
    target = np.zeros((40, 40), dtype=bool)
    target[20, 5:35] = True
    points, labels = first_clicks(
        target, np.zeros_like(target), np.random.default_rng(0), ClickConfig(erode_share=1.0)
    )
    assert at(target, points[labels == POSITIVE]).all()


def test_the_number_of_points_follows_the_geometric_law() -> None:
    target = blob(0)
    counts = []
    for seed in range(600):
        _, labels = first_clicks(
            target, ~target, np.random.default_rng(seed), ClickConfig(gamma=0.5)
        )
        counts.append((labels == POSITIVE).sum())
    for more in (1, 2, 3):
        assert np.mean(np.array(counts) == more) == pytest.approx(0.5**more, abs=0.06)


def test_without_other_objects_their_share_falls_on_the_background() -> None:
    """An image with one object, as in HQSeg44K, gets as many negative clicks as any other."""
    target = np.zeros((60, 60), dtype=bool)
    target[20:40, 20:40] = True
    some, none = target.copy(), np.zeros_like(target)
    some[:5, :5] = True
    counts = []
    for others in (some & ~target, none):
        labels = [
            first_clicks(target, others, np.random.default_rng(seed), ClickConfig())[1]
            for seed in range(300)
        ]
        counts.append(np.mean([(label == NEGATIVE).sum() for label in labels]))
    assert counts[0] == pytest.approx(counts[1])


def test_negatives_fall_on_other_objects_or_near_the_outline() -> None:
    target = np.zeros((60, 60), dtype=bool)
    target[20:40, 20:40] = True  # area 400: border reach 2
    others = np.zeros_like(target)
    others[0:5, 0:5] = True
    near = np.zeros_like(target)
    near[18:42, 18:42] = True
    config = ClickConfig(background=0.0, other=0.5, border=0.5, gamma=1.0)
    for seed in range(20):
        points, labels = first_clicks(target, others, np.random.default_rng(seed), config)
        places = points[labels == NEGATIVE]
        assert at((near & ~target) | others, places).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), stride=st.sampled_from([1, 2]))
def test_the_next_click_corrects_the_deeper_error(seed: int, stride: int) -> None:
    target, predicted = blob(seed), blob(seed + 7)
    found = next_click(target, predicted, np.random.default_rng(seed), stride)
    if found is None:
        assert (target == predicted).all()
        return
    point, label = found
    error = target & ~predicted if label == POSITIVE else predicted & ~target
    assert at(error, point)


def test_a_right_prediction_needs_no_click() -> None:
    target = blob(3)
    assert next_click(target, target, np.random.default_rng(0)) is None


def test_the_next_click_is_deeper_than_half_the_deepest() -> None:
    target = np.zeros((31, 31), dtype=bool)
    target[5:26, 5:26] = True  # depth 11 in the middle
    nothing = np.zeros_like(target)
    for seed in range(30):
        found = next_click(target, nothing, np.random.default_rng(seed))
        assert found is not None
        x, y = found[0]
        assert min(x - 4, 26 - x, y - 4, 26 - y) > 5.5
        assert found[1] == POSITIVE


def test_the_image_border_counts_as_an_edge() -> None:
    everything = np.ones((21, 41), dtype=bool)
    point = deepest_region_click(everything, np.random.default_rng(0))
    assert 5 <= point[1] <= 15


def test_an_error_thinner_than_the_stride_is_still_found() -> None:
    target = np.zeros((20, 20), dtype=bool)
    target[11, 3:17] = True
    found = next_click(target, np.zeros_like(target), np.random.default_rng(0), stride=2)
    assert found is not None
    assert at(target, found[0])


def test_clicks_fill_their_half_and_then_replace_the_last() -> None:
    points = np.zeros((2 * SLOTS_PER_SIGN, 2), dtype=np.float32)
    labels = np.full(2 * SLOTS_PER_SIGN, EMPTY, dtype=np.int32)
    for x in range(SLOTS_PER_SIGN + 1):
        add_click(points, labels, np.array([x, 1], dtype=np.float32), NEGATIVE)
    assert (labels[:SLOTS_PER_SIGN] == EMPTY).all()
    assert (labels[SLOTS_PER_SIGN:] == NEGATIVE).all()
    assert points[SLOTS_PER_SIGN, 0] == 0
    assert points[-1, 0] == SLOTS_PER_SIGN


@pytest.mark.parametrize("wrong", [{"most": 25}, {"most": 0}, {"gamma": 0.0}, {"stride": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        ClickConfig(**wrong)  # type: ignore[arg-type]
