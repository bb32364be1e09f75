"""NoC, NoF and mIoU of a robot-user run, with bootstrap intervals over images.

    NoC@t    clicks until IoU >= t, or the click limit (20) if it is never reached; mean over
             objects
    NoF@t    number of failed objects, by two definitions:
               segnext   NoC@t equals the limit, as in SegNext's code; this includes objects that
                         succeed exactly at the last click
               never     IoU >= t is not reached within the limit
    k-mIoU   mean over objects of the IoU after k clicks
    90 % within 10   share of objects that reach an IoU of 90 % within 10 clicks

Each is the mean (or sum) of one number per object. So one bootstrap over images gives all the
intervals, and the paired comparison of two runs is the same bootstrap over differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ois_benchmarks.quality.bootstrap import RESAMPLES as RESAMPLES
from ois_benchmarks.quality.bootstrap import Values, bootstrap_means
from ois_benchmarks.statistics import Estimate
from ois_client.contract.errors import InvalidInput
from ois_network.training.clicks.robot import clicks_to_reach

#: Clicks within which an object must reach the threshold.
_WITHIN = 10


class Kind(StrEnum):
    """What one object contributes."""

    CLICKS = "clicks until the threshold"
    AT_LIMIT = "1 if that takes all clicks"
    NEVER = "1 if the threshold is never reached"
    IOU = "IoU after a number of clicks"
    REACHED = "1 if the threshold is reached within 10 clicks"


class Metric(StrEnum):
    """Key in results, label in tables, kind, and the threshold or the number of clicks."""

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
    MIOU3 = ("miou3", "3-mIoU", Kind.IOU, 3)
    MIOU5 = ("miou5", "5-mIoU", Kind.IOU, 5)
    MIOU10 = ("miou10", "10-mIoU", Kind.IOU, 10)
    REACHED90 = ("reached90_within10", "90 % within 10", Kind.REACHED, 0.90)

    def __new__(cls, value: str, label: str, kind: Kind, at: float) -> Metric:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        member.kind = kind
        member.at = at
        return member

    @property
    def is_count(self) -> bool:
        """Whether the sum over objects is reported instead of the mean."""
        return self.kind in (Kind.AT_LIMIT, Kind.NEVER)

    @property
    def lower_is_better(self) -> bool:
        return self.kind not in (Kind.IOU, Kind.REACHED)

    @property
    def is_share(self) -> bool:
        """Whether it is a number from 0 to 1, which tables give in percent."""
        return self.kind in (Kind.IOU, Kind.REACHED)

    def exists_for(self, clicks: int) -> bool:
        """Whether it is defined for runs of `clicks` clicks."""
        needed = {Kind.IOU: self.at, Kind.REACHED: _WITHIN}.get(self.kind, 0)
        return needed <= clicks

    def per_object(self, ious: Values) -> Values:
        """The contribution of each object, (N,).

        ious: (N, K), IoU of N objects after 1..K clicks.
        """
        if self.kind is Kind.IOU:
            return ious[:, int(self.at) - 1]
        if self.kind is Kind.REACHED:
            return (ious[:, :_WITHIN] >= self.at).any(axis=1).astype(np.float64)
        if self.kind is Kind.NEVER:
            return (ious < self.at).all(axis=1).astype(np.float64)
        limit = ious.shape[1]
        clicks = np.array([clicks_to_reach(row, self.at, limit) for row in ious])
        return (clicks == limit if self.kind is Kind.AT_LIMIT else clicks).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Summary:
    """Metrics of one run, or of the difference of two. curve[k]: mean IoU after k + 1 clicks."""

    objects: int
    metrics: Mapping[Metric, Estimate]
    curve: tuple[Estimate, ...]


def summarise(ious: Values, images: Sequence[str] | None = None) -> Summary:
    """Compute all metrics and the IoU curve with their intervals. Deterministic.

    ious: (N, K), IoU of N objects after 1..K clicks. images: of each object, or None if each has
    its own. Metrics of more than K clicks are left out. Raises `InvalidInput` if there is no
    object.
    """
    return _summary(*_columns(ious), images)


def summarise_difference(
    ious: Values, other: Values, images: Sequence[str] | None = None
) -> Summary:
    """Metrics of `ious` minus those of `other`, both (N, K) with the same object in each row.

    Pairs are resampled together. What makes an object easy or hard for both runs cancels out, so
    the intervals are far narrower than those of the two runs. Raises `InvalidInput` if the shapes
    differ.
    """
    if ious.shape != other.shape:
        raise InvalidInput(
            f"got IoUs of shapes {ious.shape} and {other.shape}; a paired comparison needs the "
            "same objects and clicks in both"
        )
    metrics, mine = _columns(ious)
    return _summary(metrics, mine - _columns(other)[1], images)


def _columns(ious: Values) -> tuple[list[Metric], Values]:
    """The defined metrics, and (N, metrics + K): one column per metric, then the IoUs."""
    if ious.ndim != 2 or not ious.size:
        raise InvalidInput(
            f"got IoUs of shape {ious.shape}; expected (objects, clicks) with at least one of each"
        )
    metrics = [metric for metric in Metric if metric.exists_for(ious.shape[1])]
    columns = [metric.per_object(ious) for metric in metrics]
    return metrics, np.column_stack([*columns, ious])


def _summary(metrics: list[Metric], values: Values, images: Sequence[str] | None) -> Summary:
    estimates = bootstrap_means(values, images)
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
