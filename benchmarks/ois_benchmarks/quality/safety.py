"""Click safety: what the later clicks on an object do, good and bad.

NoC and mean IoU hide clicks that make a mask worse, because the next click repairs it. A person
sees every mask. These metrics are over all clicks after the first of all objects:

    lost     share of clicks that lose more than 5 points of IoU
    gain     mean change of IoU, from 0 to 1
    right    share of clicks whose own pixel is then inside the mask (positive click) or outside of
             it (negative click)

each over all clicks or over those of one sign. Only clicks that were answered count.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import numpy as np

from ois_benchmarks.quality.bootstrap import Ratios
from ois_benchmarks.quality.records import Measured

#: IoU from 0 to 1. The second part keeps rounding from making more than 5 points out of 5.
_LOSS = 0.05 + 1e-9


class ClickMetric(StrEnum):
    """Key in results, quantity, sign of the clicks (None: both), and heading in tables."""

    quantity: str
    positive: bool | None
    heading: str

    LOST = ("lost", "lost", None, "all")
    LOST_POSITIVE = ("lost_positive", "lost", True, "positive")
    LOST_NEGATIVE = ("lost_negative", "lost", False, "negative")
    GAIN_POSITIVE = ("gain_positive", "gain", True, "positive")
    GAIN_NEGATIVE = ("gain_negative", "gain", False, "negative")
    RIGHT = ("right", "right", None, "all")
    RIGHT_POSITIVE = ("right_positive", "right", True, "positive")
    RIGHT_NEGATIVE = ("right_negative", "right", False, "negative")

    def __new__(cls, value: str, quantity: str, positive: bool | None, heading: str) -> ClickMetric:
        member = str.__new__(cls, value)
        member._value_ = value
        member.quantity = quantity
        member.positive = positive
        member.heading = heading
        return member

    def counts(self, record: Measured) -> tuple[float, int]:
        """What an object's clicks add to the quantity, and how many clicks these are.

        Both are 0 for a log of an earlier version, which does not hold `right`.
        """
        if self.quantity == "right" and record.right is None:
            return 0.0, 0
        later = [
            number
            for number in range(1, len(record.ious))
            if self.positive in (None, record.clicks[number][2])
        ]
        gains = [record.ious[number] - record.ious[number - 1] for number in later]
        if self.quantity == "gain":
            return sum(gains), len(later)
        if self.quantity == "lost":
            return sum(gain < -_LOSS for gain in gains), len(later)
        return sum((record.right or ())[number] for number in later), len(later)


def click_ratios(records: Iterable[Measured]) -> Ratios:
    """One row per object, one column per `ClickMetric`.

    If one of the records does not know its right clicks, the log is of an earlier version, and a
    share over the other objects would not be one over the data set: it is left out.
    """
    measured = list(records)
    both = np.array(
        [[metric.counts(record) for metric in ClickMetric] for record in measured],
        dtype=np.float64,
    ).reshape(len(measured), len(ClickMetric), 2)
    if any(record.right is None for record in measured):
        both[:, [metric.quantity == "right" for metric in ClickMetric]] = 0
    return both[..., 0], both[..., 1]
