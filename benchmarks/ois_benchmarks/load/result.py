"""The result of a load run: one entry per step, and the saturation found from the arrivals.

    {"benchmark": "load", "schema": 1, "complete": true, "target": ..., "model": ...,
     "plan": ..., "images": [...], "machine": ..., "click_s": 0.031,
     "steps": [{"pace": "fast", "level": 4, "latency_ms": {"p50": {...}, ...}, ...}, ...],
     "saturation": {"rate": 31.2, "first_above": 33.0, "reason": "...", ...}}

Times are in milliseconds, from when a click was due until its mask was received and unpacked.
Failed clicks are counted by error code and are not in any quantile. A step with a failed click
counts as not sustained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ois_benchmarks.statistics import Estimate

SCHEMA = 1
#: The share of the offered rate that must be answered for the server to keep up.
KEEPS_UP = 0.95


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds. A quantile is None if there are too few clicks for it."""

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

    seconds: in which clicks fell due. elapsed_s: until the last answer. due, answered: clicks.
    failed: clicks by error code. failed_opens: images that could not be opened, by error code.
    lost: clicks that were due but neither answered nor failed, or that are missing in the history
    of their session; anything but 0 is a defect. latency_ms: of answered clicks. open_ms: of opened
    images, from when they were due. first_click_ms: of the first click on each image. encodes:
    images that were encoded when opened. recovered: clicks before which the image was encoded
    again, because its features were no longer stored. late_ms: p99 of the delay with which this
    load generator began a click. stages_ms: medians by stage; `rest` is protocol, client and
    waiting that the server does not measure. others_share: share of all cores that other programs
    used before the step. stopped: why the step ended early.
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
        """Clicks answered per second, including the time to answer the last ones."""
        return self.answered / max(self.seconds, self.elapsed_s)

    @property
    def failures(self) -> int:
        return sum(self.failed.values()) + sum(self.failed_opens.values())

    @property
    def _keeps_up(self) -> float:
        """The share of the offered clicks that was answered as fast as they arrived.

        The last clicks take time even without a queue, so one median is subtracted.
        """
        usual_s = self.latency_ms.p50.value / 1e3 if self.latency_ms.p50 else 0.0
        seconds = max(self.seconds, self.elapsed_s - usual_s)
        return self.answered / seconds / self.offered if self.due else 1.0

    def problem(self, limit_ms: float) -> str | None:
        """Why the server does not sustain this step; None if it does."""
        if self.failures:
            return f"{self.failures} of {self.due} clicks failed"
        if self.stopped:
            return self.stopped
        if self._keeps_up < KEEPS_UP:
            return f"{self.throughput:.3g} of {self.offered:.3g} clicks/s were answered"
        slowest = self.latency_ms.p95
        # A short step has no p95; use the slowest click.
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
        """Raises `KeyError` or `TypeError` if `fields` are not a step."""
        given = {key: value for key, value in fields.items() if key != "throughput"}
        for name in ("latency_ms", "open_ms", "first_click_ms"):
            given[name] = Latency.from_dict(given[name])
        return cls(**given)


def saturation(
    steps: Sequence[StepResult], limit_ms: float, cycle_s: float
) -> dict[str, Any] | None:
    """The highest sustained arrival rate, and why the next higher rate was not sustained.

    cycle_s: mean seconds between a user's mask and next click; `people` is the number of users who
    together click at the sustained rate. None if no arrivals were measured.
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
        "reason": above.problem(limit_ms) if above else "all rates that were tried were sustained",
        "people": int(best.level * seconds) if best else 0,
        "seconds_between_clicks": round(seconds, 2),
    }


def describe_saturation(found: Mapping[str, Any]) -> str:
    """The result of `saturation` as a sentence."""
    if found["rate"] is None:
        return f"no rate was sustained: at {found['first_above']:g} clicks/s {found['reason']}"
    text = f"sustained: {found['rate']:g} clicks/s with p95 within {found['limit_ms']:g} ms"
    if found["first_above"] is not None:
        text += f"; at {found['first_above']:g} clicks/s {found['reason']}"
    else:
        text += f"; {found['reason']}"
    people = f"{found['people']} people" if found["people"] != 1 else "1 person"
    return f"{text}. That is about {people} clicking every {found['seconds_between_clicks']:g} s"
