"""NoC, NoF and mIoU of a robot-user run, with bootstrap intervals over objects.

    NoC@t    clicks until IoU >= t, the click limit (20) where it never is; mean over objects
    NoF@t    objects that count as failed, in two readings:
               segnext   NoC@t equals the limit, as SegNext's code counts: an object that
                         succeeds exactly at the last click is among them
               never     IoU >= t is not reached within the limit
    k-mIoU   mean over objects of the IoU after k clicks

All of them are means (or sums) of one number an object, so one bootstrap over objects serves
them all, and the paired comparison of two runs is the same bootstrap over differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.statistics import Estimate, interval
from ois_client.contract.errors import InvalidInput
from ois_network.training.clicks.robot import clicks_to_reach

RESAMPLES = 2000

Values = NDArray[np.float64]


class Kind(StrEnum):
    """What one object contributes."""

    CLICKS = "clicks until the threshold"
    AT_LIMIT = "1 where that takes all clicks"
    NEVER = "1 where the threshold is never reached"
    IOU = "IoU after so many clicks"


class Metric(StrEnum):
    """A metric's key in results, its label in tables, its kind, and its threshold or click."""

    label: str
    kind: Kind
    at: float

    NOC85 = ("noc85", "NoC85", Kind.CLICKS, 0.85)
    NOC90 = ("noc90", "NoC90", Kind.CLICKS, 0.90)
    NOC95 = ("noc95", "NoC95", Kind.CLICKS, 0.95)
    NOF90_SEGNEXT = ("nof90_segnext", "NoF90 (SegNext)", Kind.AT_LIMIT, 0.90)
    NOF95_SEGNEXT = ("nof95_segnext", "NoF95 (SegNext)", Kind.AT_LIMIT, 0.95)
    NOF90_NEVER = ("nof90_never", "NoF90 (never)", Kind.NEVER, 0.90)
    NOF95_NEVER = ("nof95_never", "NoF95 (never)", Kind.NEVER, 0.95)
    MIOU1 = ("miou1", "1-mIoU", Kind.IOU, 1)
    MIOU5 = ("miou5", "5-mIoU", Kind.IOU, 5)

    def __new__(cls, value: str, label: str, kind: Kind, at: float) -> Metric:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        member.kind = kind
        member.at = at
        return member

    @property
    def is_count(self) -> bool:
        """The sum over objects is reported, not the mean."""
        return self.kind in (Kind.AT_LIMIT, Kind.NEVER)

    @property
    def lower_is_better(self) -> bool:
        return self.kind is not Kind.IOU

    def exists_for(self, clicks: int) -> bool:
        """Whether a run of so many clicks has it."""
        return self.kind is not Kind.IOU or self.at <= clicks

    def per_object(self, ious: Values) -> Values:
        """ious: (N, K), IoU of N objects after 1..K clicks -> (N,)."""
        if self.kind is Kind.IOU:
            return ious[:, int(self.at) - 1]
        if self.kind is Kind.NEVER:
            return (ious < self.at).all(axis=1).astype(np.float64)
        limit = ious.shape[1]
        clicks = np.array([clicks_to_reach(row, self.at, limit) for row in ious])
        return (clicks == limit if self.kind is Kind.AT_LIMIT else clicks).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one run, or of the difference of two. curve[k]: mean IoU after k + 1 clicks."""

    objects: int
    metrics: Mapping[Metric, Estimate]
    curve: tuple[Estimate, ...]


def summarise(ious: Values) -> Summary:
    """ious: (N, K), IoU of N objects after 1..K clicks. Deterministic.

    A metric of a click beyond K is left out. Raises `InvalidInput` when there is no object.
    """
    return _summary(*_columns(ious))


def summarise_difference(ious: Values, other: Values) -> Summary:
    """`ious` minus `other`, both (N, K) with the same object in each row.

    Resampling pairs cancels what is easy or hard for both: far narrower than two intervals.
    Raises `InvalidInput` for shapes that differ.
    """
    if ious.shape != other.shape:
        raise InvalidInput(
            f"got IoUs of shapes {ious.shape} and {other.shape}; a paired comparison needs the "
            "same objects and clicks in both"
        )
    metrics, mine = _columns(ious)
    return _summary(metrics, mine - _columns(other)[1])


def bootstrap_means(values: Values) -> list[Estimate]:
    """values: (N, M) -> the mean of each column with its interval; rows are resampled whole."""
    count = len(values)
    generator = np.random.default_rng(0)
    means = np.empty((RESAMPLES, values.shape[1]))
    for row in means:
        drawn = np.bincount(generator.integers(count, size=count), minlength=count)
        row[:] = drawn @ values / count
    low, high = interval(means)
    return [
        Estimate(float(value), float(bottom), float(top))
        for value, bottom, top in zip(values.mean(axis=0), low, high, strict=True)
    ]


def _columns(ious: Values) -> tuple[list[Metric], Values]:
    """The metrics there are, and (N, metrics + K): one column a metric, then the IoUs."""
    if ious.ndim != 2 or not ious.size:
        raise InvalidInput(
            f"got IoUs of shape {ious.shape}; expected (objects, clicks) with at least one of each"
        )
    metrics = [metric for metric in Metric if metric.exists_for(ious.shape[1])]
    columns = [metric.per_object(ious) for metric in metrics]
    return metrics, np.column_stack([*columns, ious])


def _summary(metrics: list[Metric], values: Values) -> Summary:
    estimates = bootstrap_means(values)
    count = len(values)
    return Summary(
        count,
        {
            metric: _times(estimate, count) if metric.is_count else estimate
            for metric, estimate in zip(metrics, estimates, strict=False)
        },
        tuple(estimates[len(metrics) :]),
    )


def _times(estimate: Estimate, factor: int) -> Estimate:
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)
