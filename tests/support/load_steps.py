"""Invented results of load steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ois_benchmarks.load.result import Latency, StepResult
from ois_benchmarks.statistics import Estimate


def step_result(level: float, **changes: Any) -> StepResult:
    """An arrivals step of 10 s without problems; `changes` replace its fields."""
    due = round(10 * level)
    fast = Estimate(30.0, 29.0, 31.0)
    made = StepResult(
        pace="arrivals",
        level=level,
        label=f"{level:g} clicks/s arriving",
        seconds=10.0,
        elapsed_s=10.02,
        due=due,
        answered=due,
        failed={},
        failed_opens={},
        lost=0,
        latency_ms=Latency(due, fast, Estimate(40.0, 38.0, 44.0), None, 55.0),
        open_ms=Latency(0),
        first_click_ms=Latency(0),
        encodes=0,
        recovered=0,
        late_ms=0.1,
    )
    return replace(made, **changes)
