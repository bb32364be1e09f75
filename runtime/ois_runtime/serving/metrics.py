"""Metrics and log lines of the model `ois_segment`.

Requests only append to a list, and a thread publishes twice a second. In Triton every metric and
every log line is a message to another process; sending it during a click would take about as long
as the click waits in its queue, and printing the log competes for the CPU.
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
    "ois_store_hits_total": ("Requests whose image features were in the store", "hits"),
    "ois_store_misses_total": ("Requests whose image features were not in the store", "misses"),
    "ois_store_evictions_total": ("Images dropped to make room", "evictions"),
    "ois_store_expirations_total": (
        "Images dropped after being idle too long",
        "expirations",
    ),
}
GAUGES = {
    "ois_store_bytes": ("Memory used by the stored features", "bytes"),
    "ois_store_images": ("Images whose features are stored", "entries"),
    "ois_store_budget_bytes": ("Memory that the features may use", "budget_bytes"),
}
HISTOGRAMS = {
    "ois_encode_seconds": "Time of requests that encoded an image, queue included",
    "ois_click_seconds": "Time of clicks on an image whose features were stored, queue included",
}
DECODES = ("ois_decodes_total", "Runs of the decoder, in any process")
HOST_BYTES = (
    "ois_click_host_bytes_total",
    "Bytes of features and logits that clicks on Triton's engine models had in the CPU's memory",
)
REQUESTS = ("ois_requests_total", "Requests by kind and outcome (ok or an error code)")


class Metrics(Protocol):
    """Where metrics are kept: in Triton's metric families, or in a dictionary in tests."""

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Increase a counter."""

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""

    def observe(self, name: str, value: float) -> None:
        """Add to a histogram."""


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """A request that was answered; `kind`, `features` and `decodes` as in `RequestRecord`."""

    kind: str
    outcome: str  # "ok", "cancelled" or an error's code
    seconds: float  # from its arrival to its answer
    features: str = ""
    decodes: int = 0


class Publisher:
    """Collects answered requests and log lines, and publishes them. Thread-safe."""

    def __init__(
        self,
        metrics: Metrics,
        stats: Callable[[], StoreStats],
        log: Callable[[str], None],
        *,
        host_bytes: Callable[[], int] = lambda: 0,
        period_s: float = PERIOD_S,
    ) -> None:
        """host_bytes: the value of the counter `HOST_BYTES`."""
        self._metrics = metrics
        self._host_bytes = host_bytes
        self._stats = stats
        self._write_log = log
        self._period_s = period_s
        self._answered: deque[AnsweredRequest] = deque(maxlen=100_000)
        self._lines: deque[str] = deque(maxlen=100_000)
        self._published: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ois-metrics", daemon=True)
        self._thread.start()

    def report(self, answered: AnsweredRequest) -> None:
        self._answered.append(answered)

    def log(self, line: str) -> None:
        """Write a line to the log with the next publication."""
        self._lines.append(line)

    def publish(self) -> None:
        """Publish now. Not thread-safe."""
        while self._lines:
            self._write_log(self._lines.popleft())
        counts: Counter[tuple[str, str]] = Counter()
        decodes = 0
        while self._answered:
            request = self._answered.popleft()
            counts[request.kind, request.outcome] += 1
            decodes += request.decodes
            if request.outcome == "ok" and request.features == "miss":
                self._metrics.observe("ois_encode_seconds", request.seconds)
            elif (request.outcome, request.features, request.kind) == ("ok", "hit", "click"):
                self._metrics.observe("ois_click_seconds", request.seconds)
        if decodes:
            self._metrics.add(DECODES[0], decodes, {})
        for (kind, outcome), count in counts.items():
            self._metrics.add(REQUESTS[0], count, {"kind": kind, "outcome": outcome})
        stats = self._stats()
        totals = {name: getattr(stats, attribute) for name, (_, attribute) in COUNTERS.items()}
        for name, now in {**totals, HOST_BYTES[0]: self._host_bytes()}.items():
            if more := now - self._published.get(name, 0):
                self._metrics.add(name, more, {})
                self._published[name] = now
        for name, (_, attribute) in GAUGES.items():
            now = getattr(stats, attribute)
            if self._published.get(name) != now:
                self._metrics.set(name, now)
                self._published[name] = now

    def close(self) -> None:
        """Publish the rest and stop. May be called twice."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self.publish()
        self.publish()
