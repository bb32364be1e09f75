"""What a simulation, or a measurement of the same, amounts to."""

from __future__ import annotations

from typing import Any

import numpy as np

from ois_benchmarks.capacity.simulation import Outcome, Seen

#: A window is clearly worse than the time before a loss from these differences on.
_HIT_WITHIN, _P99_WITHIN = 0.015, 1.25
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


def suffering(
    outcome: Outcome, at_s: float, begin_s: float, end_s: float, step_s: float
) -> dict[str, Any]:
    """What a loss at `at_s` did between `begin_s` and `end_s`: the worst window of `step_s`, and
    seconds from `begin_s` until the end of the last window that was clearly worse than before.
    """
    clicks = outcome.clicks
    calm = clicks.due_s < at_s
    before_hit = float(clicks.hit[calm].mean())
    before_p99 = float(np.quantile(clicks.ms[calm], 0.99))
    rows = over_time(outcome, begin_s, end_s, step_s)
    hits = [(one["at_s"], one["hit_share"]) for one in rows if one["hit_share"] is not None]
    p99s = [(one["at_s"], one["p99_ms"]) for one in rows if one["p99_ms"] is not None]

    def lasted(bad: list[float]) -> float:
        return round(max(bad) + step_s - begin_s, 3) if bad else 0.0

    return {
        "hit_share": {
            "before": round(before_hit, 4),
            "worst": min((share for _, share in hits), default=None),
            "suffers_s": lasted([at for at, share in hits if share < before_hit - _HIT_WITHIN]),
        },
        "p99_ms": {
            "before": round(before_p99, 2),
            "worst": max((ms for _, ms in p99s), default=None),
            "suffers_s": lasted([at for at, ms in p99s if ms > before_p99 * _P99_WITHIN]),
        },
    }
