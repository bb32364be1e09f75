"""Counts, latencies and log lines of the serving model, published through whatever keeps them.

Requests only append to a list; a thread publishes twice a second, because with Triton every
publication is a message to another process and would cost a click as much as its queue. (A log
line ends in the terminal of whoever reads the log, on cores that an answer needs just then.)
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ois_runtime.engines.store import StoreStats

PERIOD_S = 0.5

#: Upper bounds of the latency histograms, in seconds.
BUCKETS = [0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]

#: name -> (help, field of StoreStats)
COUNTERS = {
    "ois_store_hits_total": ("Requests that found the image's features", "hits"),
    "ois_store_misses_total": ("Requests that did not find the image's features", "misses"),
    "ois_store_evictions_total": ("Images that left to make room", "evictions"),
    "ois_store_expirations_total": ("Images that were idle for too long", "expirations"),
}
GAUGES = {
    "ois_store_bytes": ("Memory of the features kept", "bytes"),
    "ois_store_images": ("Images whose features are kept", "entries"),
    "ois_store_budget_bytes": ("Memory the features may take", "budget_bytes"),
}
HISTOGRAMS = {
    "ois_encode_seconds": "A request that computed an image's features, queue included",
    "ois_click_seconds": "A click on an image whose features were there, queue included",
}
DECODES = ("ois_decodes_total", "Runs of the decoder, wherever it runs")
REQUESTS = ("ois_requests_total", "Requests by kind and outcome (ok, or the error's code)")


class Metrics(Protocol):
    """What keeps the numbers: Triton's metric families, or a test's dictionary."""

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Increase a counter."""

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""

    def observe(self, name: str, value: float) -> None:
        """Add to a histogram."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that was answered; `kind`, `features` and `decodes` as in `serving.Record`."""

    kind: str
    outcome: str  # "ok", or the error's code
    seconds: float
    features: str = ""
    decodes: int = 0


class Publisher:
    """Collects what requests report and publishes it. Thread-safe."""

    def __init__(
        self,
        metrics: Metrics,
        stats: Callable[[], StoreStats],
        log: Callable[[str], None],
        *,
        period_s: float = PERIOD_S,
    ) -> None:
        self._metrics = metrics
        self._stats = stats
        self._log = log
        self._period_s = period_s
        self._seen: deque[Answered] = deque(maxlen=100_000)
        self._lines: deque[str] = deque(maxlen=100_000)
        self._before: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ois-metrics", daemon=True)
        self._thread.start()

    def report(self, answered: Answered) -> None:
        self._seen.append(answered)

    def say(self, line: str) -> None:
        """A line for the log, soon."""
        self._lines.append(line)

    def publish(self) -> None:
        """Publish now. Only one caller at a time."""
        while self._lines:
            self._log(self._lines.popleft())
        counts: Counter[tuple[str, str]] = Counter()
        decodes = 0
        while self._seen:
            one = self._seen.popleft()
            counts[one.kind, one.outcome] += 1
            decodes += one.decodes
            if one.outcome == "ok" and one.features == "miss":
                self._metrics.observe("ois_encode_seconds", one.seconds)
            elif one.outcome == "ok" and one.features == "hit" and one.kind == "click":
                self._metrics.observe("ois_click_seconds", one.seconds)
        if decodes:
            self._metrics.add(DECODES[0], decodes, {})
        for (kind, outcome), count in counts.items():
            self._metrics.add(REQUESTS[0], count, {"kind": kind, "outcome": outcome})
        stats = self._stats()
        for name, (_, attribute) in COUNTERS.items():
            now = getattr(stats, attribute)
            if more := now - self._before.get(name, 0):
                self._metrics.add(name, more, {})
                self._before[name] = now
        for name, (_, attribute) in GAUGES.items():
            now = getattr(stats, attribute)
            if self._before.get(name) != now:
                self._metrics.set(name, now)
                self._before[name] = now

    def close(self) -> None:
        """Publish what is left and stop. Twice is fine."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self.publish()
        self.publish()
