"""Quantiles of latencies with intervals that know that neighbouring clicks are alike.

Clicks that wait in one queue are slow together. Drawing them one by one, as a bootstrap of
independent samples does, would give intervals that are far too narrow; so runs of consecutive
clicks are drawn whole (moving-block bootstrap, blocks of about the square root of their number).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ois_benchmarks.estimate import Estimate, interval

RESAMPLES = 400
#: Name -> share. A quantile is stated only where at least one sample lies beyond it.
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}

_CHUNK = 2_000_000  # drawn numbers held at once


def quantiles(values: Sequence[float]) -> dict[str, Estimate | None]:
    """values: in the order of time. Deterministic; None where there are too few values."""
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
