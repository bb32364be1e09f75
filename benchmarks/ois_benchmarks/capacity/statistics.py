"""What a simulation, or a measurement of the same, amounts to."""

from __future__ import annotations

from typing import Any

import numpy as np

from ois_benchmarks.capacity.simulation import Outcome, Seen

#: A loss is over when the shares of a window are as good as before it, by these.
_HIT_WITHIN, _P99_WITHIN = 0.01, 1.1
_FEWEST = 100  # opens or clicks in a window, for a p99


def summary(seen: Seen) -> dict[str, Any]:
    """Count, p50, p95, p99 and maximum in ms, and the share that found its features."""
    if not len(seen.ms):
        return {"count": 0, "p50": None, "p95": None, "p99": None, "max": None, "hit_share": None}
    shares = (0.5, 0.95, 0.99)
    p50, p95, p99 = (round(float(one), 2) for one in np.quantile(seen.ms, shares))
    return {
        "count": len(seen.ms),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": round(float(seen.ms.max()), 2),
        "hit_share": round(float(seen.hit.mean()), 4),
        "failed": seen.failed,
    }


def over_time(
    outcome: Outcome, begin_s: float, end_s: float, step_s: float
) -> list[dict[str, Any]]:
    """Hit share and p99 of the clicks, per window."""
    clicks = outcome.clicks
    edges = np.arange(begin_s, end_s + 1e-9, step_s)
    rows = []
    for left in edges[:-1]:
        inside = (clicks.due_s >= left) & (clicks.due_s < left + step_s)
        count = int(inside.sum())
        rows.append(
            {
                "at_s": round(float(left), 3),
                "clicks": count,
                "hit_share": round(float(clicks.hit[inside].mean()), 4) if count else None,
                "p99_ms": round(float(np.quantile(clicks.ms[inside], 0.99)), 2)
                if count >= _FEWEST
                else None,
            }
        )
    return rows


def suffering(outcome: Outcome, at_s: float, end_s: float, step_s: float) -> dict[str, Any]:
    """What a loss at `at_s` did: the worst window, and seconds until the last one that was worse
    than before. Windows of `step_s` from `at_s` to `end_s`; before: all from the outcome's begin.
    """
    begin = float(outcome.clicks.due_s.min()) if len(outcome.clicks.due_s) else at_s
    calm = outcome.clicks.due_s < at_s
    before_hit = float(outcome.clicks.hit[calm].mean())
    before_p99 = float(np.quantile(outcome.clicks.ms[calm], 0.99))
    rows = over_time(outcome, at_s, end_s, step_s)
    worst_hit = min(
        (one["hit_share"] for one in rows if one["hit_share"] is not None), default=None
    )
    worst_p99 = max((one["p99_ms"] for one in rows if one["p99_ms"] is not None), default=None)

    def last(bad: list[float]) -> float:
        return round(max(bad, default=at_s - step_s) + step_s - at_s, 3)

    return {
        "before": {"hit_share": round(before_hit, 4), "p99_ms": round(before_p99, 2)},
        "worst": {"hit_share": worst_hit, "p99_ms": worst_p99},
        "hit_share_suffers_s": last(
            [
                one["at_s"]
                for one in rows
                if one["hit_share"] is not None and one["hit_share"] < before_hit - _HIT_WITHIN
            ]
        ),
        "p99_suffers_s": last(
            [
                one["at_s"]
                for one in rows
                if one["p99_ms"] is not None and one["p99_ms"] > before_p99 * _P99_WITHIN
            ]
        ),
        "seconds_before": round(at_s - begin, 1),
    }
