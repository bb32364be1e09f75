"""NoC, NoF and mIoU on cases computed by hand, and the width of the intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ois_benchmarks.quality.metrics import (
    Metric,
    bootstrap_means,
    summarise,
    summarise_difference,
)
from ois_client.contract.errors import InvalidInput


def rising(*steps: tuple[int, float]) -> list[float]:
    """20 IoUs that start at 0.5 and change to the given value at the given click."""
    ious = [0.5] * 20
    for click, value in steps:
        ious[click - 1 :] = [value] * (21 - click)
    return ious


#: One object per line. By hand: NoC@85, 90, 95; NoF@90, 95 as SegNext counts; NoF@90, 95 (never).
CASES = [
    (rising((1, 0.99)), (1, 1, 1), (0, 0), (0, 0)),
    (rising((3, 0.85), (7, 0.90), (20, 0.95)), (3, 7, 20), (0, 1), (0, 0)),
    (rising((20, 0.97)), (20, 20, 20), (1, 1), (0, 0)),
    (rising((2, 0.8999)), (2, 20, 20), (1, 1), (1, 1)),
    (rising((4, 0.93), (5, 0.6)), (4, 4, 20), (0, 1), (0, 1)),
    (rising(), (20, 20, 20), (1, 1), (1, 1)),
]
IOUS = np.array([case[0] for case in CASES])


def values(*metrics: Metric) -> list[list[float]]:
    return np.column_stack([metric.per_object(IOUS) for metric in metrics]).tolist()


def test_noc_is_the_first_click_that_reaches_the_threshold_or_the_limit() -> None:
    assert values(Metric.NOC85, Metric.NOC90, Metric.NOC95) == [list(case[1]) for case in CASES]


def test_nof_of_segnext_also_counts_a_success_exactly_at_the_last_click() -> None:
    assert values(Metric.NOF90_SEGNEXT, Metric.NOF95_SEGNEXT) == [list(case[2]) for case in CASES]


def test_nof_never_counts_only_objects_that_never_reach_the_threshold() -> None:
    assert values(Metric.NOF90_NEVER, Metric.NOF95_NEVER) == [list(case[3]) for case in CASES]


def test_the_summary_of_the_cases_agrees_with_arithmetic_by_hand() -> None:
    summary = summarise(IOUS)
    got = {metric.value: estimate.value for metric, estimate in summary.metrics.items()}
    assert got == pytest.approx(
        {
            "noc85": 50 / 6,
            "noc90": 72 / 6,
            "noc95": 101 / 6,
            "nof90_segnext": 3,
            "nof95_segnext": 5,
            "nof90_never": 2,
            "nof95_never": 3,
            "miou1": (0.99 + 5 * 0.5) / 6,
            "miou3": (0.99 + 0.85 + 0.5 + 0.8999 + 0.5 + 0.5) / 6,
            "miou5": (0.99 + 0.85 + 0.5 + 0.8999 + 0.6 + 0.5) / 6,
            "miou10": (0.99 + 0.90 + 0.5 + 0.8999 + 0.6 + 0.5) / 6,
            "reached90_within10": 3 / 6,
        }
    )
    assert summary.objects == 6
    assert [point.value for point in summary.curve] == pytest.approx(IOUS.mean(axis=0))


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 6), st.integers(1, 24)),
        elements=st.sampled_from([0.0, 0.3, 0.849, 0.85, 0.9, 0.93, 0.95, 1.0]),
    )
)
def test_any_run_agrees_with_segnexts_own_arithmetic(ious: np.ndarray) -> None:
    """As `compute_noc_metric` in SegNext's `isegm/inference/utils.py`, for any click limit."""
    limit = ious.shape[1]

    def clicks(row: np.ndarray, threshold: float) -> int:
        reached = row >= threshold
        return int(np.argmax(reached)) + 1 if np.any(reached) else limit

    summary = summarise(ious)
    for share in (85, 90, 95):
        noc = [clicks(row, share / 100) for row in ious]
        assert summary.metrics[Metric[f"NOC{share}"]].value == pytest.approx(np.mean(noc))
        if share != 85:
            over = np.sum(np.array(noc) == limit)
            segnext = summary.metrics[Metric[f"NOF{share}_SEGNEXT"]].value
            assert segnext == pytest.approx(over)
            never = summary.metrics[Metric[f"NOF{share}_NEVER"]].value
            assert never == pytest.approx(sum(row.max() < share / 100 for row in ious))
    assert (Metric.MIOU5 in summary.metrics) == (limit >= 5)


def test_an_interval_is_the_same_every_time_and_holds_the_value() -> None:
    first, second = summarise(IOUS), summarise(IOUS)
    assert first == second
    for estimate in (*first.metrics.values(), *first.curve):
        assert estimate.low <= estimate.value <= estimate.high


def test_an_interval_is_as_wide_as_theory_says() -> None:
    sample = np.random.default_rng(1).normal(3.0, 2.0, (400, 1))
    (estimate,) = bootstrap_means(sample)
    assert estimate.value == pytest.approx(sample.mean())
    half = 1.96 * sample.std(ddof=1) / np.sqrt(400)
    assert estimate.low == pytest.approx(sample.mean() - half, abs=0.15 * half)
    assert estimate.high == pytest.approx(sample.mean() + half, abs=0.15 * half)


def test_one_object_has_an_interval_of_one_point() -> None:
    summary = summarise(np.full((1, 20), 0.7))
    assert summary.metrics[Metric.NOC85].to_dict() == {"value": 20.0, "low": 20.0, "high": 20.0}


def test_a_small_gain_on_every_object_shows_only_when_runs_are_paired() -> None:
    other = np.random.default_rng(2).uniform(0.2, 0.9, (50, 20))
    gained = other + 0.01 + np.random.default_rng(3).normal(0, 0.01, other.shape)
    alone, reference = summarise(gained).curve[0], summarise(other).curve[0]
    assert alone.low < reference.high  # the intervals of the two runs overlap
    difference = summarise_difference(gained, other).curve[0]
    assert difference.excludes_zero
    assert difference.value == pytest.approx((gained - other)[:, 0].mean())


def test_the_difference_of_equal_runs_is_zero() -> None:
    difference = summarise_difference(IOUS, IOUS)
    for estimate in (*difference.metrics.values(), *difference.curve):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
        assert not estimate.excludes_zero


def test_a_difference_counts_failures_in_objects() -> None:
    better = IOUS.copy()
    better[-1] = 0.99
    assert summarise_difference(better, IOUS).metrics[Metric.NOF90_NEVER].value == -1


@pytest.mark.parametrize("shape", [(0, 20), (3, 0), (20,)])
def test_a_summary_of_no_object_is_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="objects, clicks"):
        summarise(np.zeros(shape))


def test_runs_of_other_shapes_are_not_paired() -> None:
    with pytest.raises(InvalidInput, match="same objects"):
        summarise_difference(IOUS, IOUS[:3])
