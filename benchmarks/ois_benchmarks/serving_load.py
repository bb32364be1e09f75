"""What the serving benchmark measures: single clicks side by side, and many sessions at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.timing import median_interval
from ois_client import Client
from ois_client.errors import OISError
from ois_client.session import Session

#: Stages that a server reports; `wire` is what is left of the client's time.
STAGES = ("queue", "decode", "postprocess", "encode_mask")

_STAT = Path("/proc/stat")


@dataclass(slots=True)
class Clicks:
    """Clicks of one kind. ms: each one's time in the client; stages_ms: as the reply has them."""

    ms: list[float] = field(default_factory=list)
    stages_ms: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, session: Session, x: float, y: float) -> None:
        """One click, taken back again, so that all clicks are first ones and cost the same."""
        started = time.perf_counter()
        session.click(x, y)
        self.ms.append((time.perf_counter() - started) * 1e3)
        reply = session.last_reply
        self.stages_ms.append({} if reply is None else reply.timings_ms)
        session.undo()

    def summary(self) -> dict[str, Any]:
        """Medians; `wire_ms`: protocol, copies and the client, all but the server's stages."""
        medians = {
            f"{stage}_ms": _median([one[stage] for one in self.stages_ms if stage in one])
            for stage in STAGES
            if any(stage in one for one in self.stages_ms)
        }
        inside = [
            one.get("queue", 0.0) + one["total"] if "total" in one else sum(one.values())
            for one in self.stages_ms
        ]
        wire = [ms - served for ms, served in zip(self.ms, inside, strict=True)]
        return {**spread(self.ms), **medians, "wire_ms": _median(wire)}


def spread(ms: Sequence[float]) -> dict[str, Any]:
    """Median with its bootstrap interval, and the tail."""
    low, high = median_interval(list(ms))
    return {
        "median_ms": _median(ms),
        "low_ms": round(low, 3),
        "high_ms": round(high, 3),
        "p90_ms": round(float(np.quantile(ms, 0.90)), 3),
        "p99_ms": round(float(np.quantile(ms, 0.99)), 3),
        "clicks": len(ms),
    }


def side_by_side(
    clients: Mapping[str, Client], image: NDArray[np.uint8], count: int, *, warm_up: int = 10
) -> dict[str, Clicks]:
    """`count` clicks by each client, in turn, so that what disturbs one disturbs all."""
    sessions = {name: client.open(image) for name, client in clients.items()}
    found = {name: Clicks() for name in clients}
    height, width = image.shape[:2]
    places = np.random.default_rng(0).uniform(0.1, 0.9, (warm_up + count, 2)) * (width, height)
    names = list(clients)
    for n, (x, y) in enumerate(places):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            found[name].add(sessions[name], x, y)
    return {
        name: Clicks(clicks.ms[warm_up:], clicks.stages_ms[warm_up:])
        for name, clicks in found.items()
    }


def many_sessions(
    client: Client, images: Sequence[NDArray[np.uint8]], count: int, seconds: float
) -> dict[str, Any]:
    """`count` people who click without a pause for `seconds`, each in a thread."""
    sessions = [client.open(images[n % len(images)]) for n in range(count)]
    together = threading.Barrier(count + 1)
    over = threading.Event()
    failures: list[str] = []

    def work(session: Session) -> list[float]:
        clicks = Clicks()
        together.wait()
        while not over.is_set():
            try:
                clicks.add(session, 10, 10)
            except OISError as error:
                failures.append(error.code)
        return clicks.ms

    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(work, session) for session in sessions]
        together.wait()
        started = time.perf_counter()
        time.sleep(seconds)
        over.set()
        ms = [one for each in running for one in each.result()]
        elapsed = time.perf_counter() - started
    return {
        "sessions": count,
        "clicks_per_second": round(len(ms) / elapsed, 2),
        **spread(ms),
        "failures": len(failures),
    }


def busy_share(seconds: float = 1.0) -> float:
    """The share of all cores that others use while this process sleeps."""
    before = _busy_and_all()
    time.sleep(seconds)
    after = _busy_and_all()
    return round((after[0] - before[0]) / max(1, after[1] - before[1]), 4)


def _busy_and_all() -> tuple[int, int]:
    fields = [int(f) for f in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 3)
