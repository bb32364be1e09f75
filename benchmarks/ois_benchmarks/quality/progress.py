"""How far a quality run is, what it has seen so far, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from ois_benchmarks.quality.records import Measured

_REPORT_EVERY_S = 5.0


class Progress:
    """Says every few seconds how far the run is, what it has seen, and how long it will take."""

    def __init__(
        self, total: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.say, self.clock = total, say, clock
        self.started = self.last = clock()
        self.steps = self.measured = self.failed = 0
        self.sum_first = self.sum_last = 0.0

    def step(self, record: Measured | None) -> None:
        """After each object; None: it was skipped."""
        self.steps += 1
        if record is not None:
            self.measured += 1
            self.failed += record.failure is not None
            self.sum_first += record.ious[0] if record.ious else 0.0
            self.sum_last += record.ious[-1] if record.ious else 0.0
        now = self.clock()
        if self.steps < self.total and now - self.last < _REPORT_EVERY_S:
            return
        self.last = now
        pace = (now - self.started) / self.steps
        text = f"{self.steps}/{self.total}"
        if self.measured:
            first, last = self.sum_first / self.measured, self.sum_last / self.measured
            text += f"  mean IoU {first:.3f} after the first click, {last:.3f} after the last"
        failed = f"  {self.failed} failed" if self.failed else ""
        left = _duration(pace * (self.total - self.steps))
        self.say(f"{text}{failed}  {pace:.2f} s/object  left {left}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
