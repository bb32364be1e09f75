"""Statistics of measurements: estimates with intervals, quantiles of clicks, medians of stages.

Clicks that wait in one queue are slow together. A bootstrap that draws them one by one, as if they
were independent, gives intervals that are far too narrow. So runs of consecutive clicks are drawn
whole (moving-block bootstrap; a block is about as long as the square root of their number).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 400
#: Name -> share. A quantile is stated only if at least one sample lies beyond it.
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
#: Stages that engines and servers report, in the order in which they happen.
STAGES = ("queue", "decode", "postprocess", "encode_mask")

_CHUNK = 2_000_000  # drawn numbers held at once


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % bootstrap confidence interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def interval(draws: np.ndarray, confidence: float = CONFIDENCE) -> tuple[Any, Any]:
    """The lower and upper end of a bootstrap interval.

    draws: (R, ...), one row per resample. Returns two arrays (...).
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, (tail, 1 - tail), axis=0)
    return low, high


def quantiles(values: Sequence[float]) -> dict[str, Estimate | None]:
    """Every quantile of `QUANTILES` with its interval; None where there are too few values.

    values: in order of time. The result is deterministic.
    """
    stated = {
        name: share
        for name, share in QUANTILES.items()
        if len(values) and len(values) * (1 - share) >= 1 - 1e-9
    }
    found: dict[str, Estimate | None] = dict.fromkeys(QUANTILES)
    if not stated:
        return found
    shares = list(stated.values())
    drawn = _resampled(np.asarray(values, dtype=np.float64), shares)
    lows, highs = interval(drawn)
    points = np.quantile(values, shares)
    for name, point, low, high in zip(stated, points, lows, highs, strict=True):
        found[name] = Estimate(*(round(float(number), 3) for number in (point, low, high)))
    return found


def stage_medians(
    stages_ms: Sequence[Mapping[str, float]], took_ms: Sequence[float]
) -> dict[str, float]:
    """Median milliseconds per stage, and `rest`: everything that no stage accounts for.

    stages_ms: the stages in each click's reply. took_ms: each click's whole time in the client.
    The rest is protocol, copies and the client.
    """
    if not took_ms:
        return {}
    medians = {
        stage: _median([one[stage] for one in stages_ms if stage in one])
        for stage in STAGES
        if any(stage in one for one in stages_ms)
    }
    rest = [took - _accounted_for(one) for took, one in zip(took_ms, stages_ms, strict=True)]
    return {**medians, "rest": _median(rest)}


def _resampled(values: np.ndarray, shares: list[float]) -> np.ndarray:
    """(RESAMPLES, len(shares)): the quantiles of each resample."""
    count = len(values)
    block = max(1, round(math.sqrt(count)))
    blocks = math.ceil(count / block)
    generator = np.random.default_rng(0)
    at_once = max(1, _CHUNK // count)
    rows = []
    for first in range(0, RESAMPLES, at_once):
        draws = min(at_once, RESAMPLES - first)
        starts = generator.integers(0, count - block + 1, size=(draws, blocks, 1))
        index = (starts + np.arange(block)).reshape(draws, -1)[:, :count]
        rows.append(np.quantile(values[index], shares, axis=1).T)
    return np.concatenate(rows)


def _accounted_for(stages_ms: Mapping[str, float]) -> float:
    """Milliseconds of all stages. A server's own total leaves out the queue; in process there is
    no total.
    """
    if "total" in stages_ms:
        return stages_ms.get("queue", 0.0) + stages_ms["total"]
    return sum(stages_ms.values())


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 3)
