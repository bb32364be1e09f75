"""What a load run found: one row a step, and the saturation read from the arrivals.

    {"benchmark": "load", "schema": 1, "complete": true, "target": ..., "model": ...,
     "plan": ..., "images": [...], "machine": ..., "click_s": 0.031,
     "steps": [{"pace": "fast", "level": 4, "latency_ms": {"p50": {...}, ...}, ...}, ...],
     "saturation": {"rate": 31.2, "first_above": 33.0, "reason": "...", ...}}

Times are milliseconds from when a click was due to when its mask was there, unpacked. Failed
clicks are counted by code and are in no quantile; a step in which any failed sustains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ois_benchmarks.statistics import Estimate

SCHEMA = 1
#: Of what arrives, how much must be answered in time for throughput to count as growing.
KEEPS_UP = 0.95


@dataclass(frozen=True, slots=True)
class Latency:
    """ms. A quantile is None where there are too few clicks to state it."""

    count: int
    p50: Estimate | None = None
    p95: Estimate | None = None
    p99: Estimate | None = None
    max: float | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Latency:
        made = {
            name: Estimate(**fields[name]) if fields[name] else None
            for name in ("p50", "p95", "p99")
        }
        return cls(count=fields["count"], max=fields["max"], **made)


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step.

    seconds: during which clicks fell due; elapsed_s: until the last answer. due, answered:
    clicks. failed: clicks by error code; failed_opens: images that could not be opened. lost:
    clicks that were due and neither answered nor failed, or that are not in their session's
    history afterwards; anything but 0 is a defect. latency_ms: of answered clicks; open_ms: of
    images opened, from when the user wanted it; first_click_ms: of the first click on each.
    encodes: images that were really encoded when they were opened. recovered: clicks before
    which the image had to be encoded again, because its features were gone. late_ms: p99 of how
    late this load generator itself began a click. stages_ms: medians by stage; `rest` is wire,
    client, and waiting outside the server's own clocks. others_share: of all cores, used by
    others before the step. stopped: why the step ended early.
    """

    pace: str
    level: float
    label: str
    seconds: float
    elapsed_s: float
    due: int
    answered: int
    failed: Mapping[str, int]
    failed_opens: Mapping[str, int]
    lost: int
    latency_ms: Latency
    open_ms: Latency
    first_click_ms: Latency
    encodes: int
    recovered: int
    late_ms: float
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    others_share: float = 0.0
    stopped: str | None = None

    @property
    def offered(self) -> float:
        """Clicks per second that fell due."""
        return self.due / self.seconds

    @property
    def throughput(self) -> float:
        """Clicks answered per second, the time to answer the last ones included."""
        return self.answered / max(self.seconds, self.elapsed_s)

    @property
    def failures(self) -> int:
        return sum(self.failed.values()) + sum(self.failed_opens.values())

    @property
    def _keeps_up(self) -> float:
        """The share of what was offered that was answered as fast as it came. The last clicks
        take their time without any queue; the median stands for it."""
        usual_s = self.latency_ms.p50.value / 1e3 if self.latency_ms.p50 else 0.0
        seconds = max(self.seconds, self.elapsed_s - usual_s)
        return self.answered / seconds / self.offered if self.due else 1.0

    def problem(self, limit_ms: float) -> str | None:
        """Why this step is more than the server sustains; None when it is not."""
        if self.failures:
            return f"{self.failures} of {self.due} clicks failed"
        if self.stopped:
            return self.stopped
        if self._keeps_up < KEEPS_UP:
            return f"{self.throughput:.3g} of {self.offered:.3g} clicks/s were answered"
        slowest = self.latency_ms.p95
        # A short step has no p95; then the slowest click stands for it.
        value = slowest.value if slowest else self.latency_ms.max
        if value is not None and value > limit_ms:
            return f"{'p95' if slowest else 'the slowest click'} is {value:.0f} ms"
        return None

    def sustained(self, limit_ms: float) -> bool:
        return self.problem(limit_ms) is None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "throughput": round(self.throughput, 3)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> StepResult:
        """Raises `KeyError` and `TypeError` when `fields` are not a step."""
        given = {key: value for key, value in fields.items() if key != "throughput"}
        for name in ("latency_ms", "open_ms", "first_click_ms"):
            given[name] = Latency.from_dict(given[name])
        return cls(**given)


def saturation(
    steps: Sequence[StepResult], limit_ms: float, cycle_s: float
) -> dict[str, Any] | None:
    """The highest arrival rate that was sustained, and what was wrong with the next.

    cycle_s: mean seconds between a person's mask and next click, for `people`: how many of
    them click that often together. None when no arrivals were measured.
    """
    ramp = sorted((one for one in steps if one.pace == "arrivals"), key=lambda one: one.level)
    if not ramp:
        return None
    above = next((one for one in ramp if not one.sustained(limit_ms)), None)
    below = [one for one in ramp if above is None or one.level < above.level]
    best = below[-1] if below else None
    seconds = cycle_s
    if best and best.latency_ms.p50:
        seconds += best.latency_ms.p50.value / 1e3
    return {
        "limit_ms": limit_ms,
        "rate": best.level if best else None,
        "first_above": above.level if above else None,
        "reason": above.problem(limit_ms) if above else "no rate that was tried was too much",
        "people": int(best.level * seconds) if best else 0,
        "seconds_between_clicks": round(seconds, 2),
    }


def describe_saturation(found: Mapping[str, Any]) -> str:
    """`saturation` as a sentence."""
    if found["rate"] is None:
        return f"no rate was sustained: at {found['first_above']:g} clicks/s {found['reason']}"
    text = f"sustained: {found['rate']:g} clicks/s with p95 within {found['limit_ms']:g} ms"
    if found["first_above"] is not None:
        text += f"; at {found['first_above']:g} clicks/s {found['reason']}"
    else:
        text += f"; {found['reason']}"
    people = f"{found['people']} people" if found["people"] != 1 else "1 person"
    return f"{text}. That is about {people} clicking every {found['seconds_between_clicks']:g} s"
