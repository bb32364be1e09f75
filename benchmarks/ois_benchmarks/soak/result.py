"""The result of a soak run.

    {"benchmark": "soak", "schema": 1, "complete": true, "elapsed_s": 7204.1, "parts": 1,
     "plan": ..., "model": ..., "machine": ..., "others_share": 0.9,
     "clicks": {"answered": 100000, "failed": {...}, "lost": 0, "wrong": 0, ...},
     "images": 5000, "opens": ..., "latency_ms": {"click": {"p50": 6.1, ...}, "open": ...},
     "events": [{"at_s": 1200.0, "kind": "kill-server", "recovered": true,
                 "recover_s": 3.9}, ...],
     "windows": [{"at_s": 30.0, "clicks": 410, "click_ms": {...}, "server": {...}, ...}, ...],
     "growth": {"server": [...], "client": ...}, "left": {"shm_files": 0, "processes": 0}}

The kind of an event may be "resumed", after an interruption. `recovered` is null if an interruption
came first. A window is the time since the one before; what a process holds is its state at the end
of the window.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ois_benchmarks.soak.visitors import Window

SCHEMA = 1
MIB = 2**20
#: Shares that every window and the whole run state, if at least one value lies beyond them.
_SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
#: Of the time of a server, or of the whole run, in which memory may still settle.
_WARM_UP = 0.3
#: Fewest windows from which growth is computed.
_FEWEST = 5


class Histogram:
    """Counts of milliseconds in bins that are 2 % wide. It can be kept in JSON and continued."""

    _STEP = math.log(1.02)

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._counts = Counter({int(place): n for place, n in (counts or {}).items()})

    def add(self, values_ms: Sequence[float]) -> None:
        for ms in values_ms:
            self._counts[math.ceil(math.log(max(ms, 1e-3)) / self._STEP)] += 1

    def to_dict(self) -> dict[str, int]:
        return {str(place): self._counts[place] for place in sorted(self._counts)}

    def summary(self) -> dict[str, Any]:
        """Count, quantiles and maximum, each the upper end of its bin."""
        places = sorted(self._counts)
        upto = np.cumsum([self._counts[place] for place in places])
        count = int(upto[-1]) if places else 0

        def quantile(share: float) -> float | None:
            if not count or count * (1 - share) < 1:
                return None
            place = places[int(np.searchsorted(upto, share * count))]
            return round(math.exp(place * self._STEP), 2)

        largest = round(math.exp(places[-1] * self._STEP), 2) if places else None
        named = {name: quantile(share) for name, share in _SHARES.items()}
        return {"count": count, **named, "max": largest}


def window_json(window: Window, at_s: float, vitals: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at_s": round(at_s, 1),
        "clicks": len(window.clicks_ms),
        "opens": len(window.opens_ms),
        "stored": window.stored,
        "recovered": window.recovered,
        "failed": window.failed,
        "click_ms": _quantiles(window.clicks_ms),
        "open_ms": _quantiles(window.opens_ms),
        **vitals,
    }


def _quantiles(values: Sequence[float]) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        name: round(float(np.quantile(values, share)), 1)
        if len(values) * (1 - share) >= 1
        else None
        for name, share in _SHARES.items()
        if name != "p99.9"
    }
    return {**found, "max": round(max(values), 1) if values else None}


def growth(windows: Sequence[Mapping[str, Any]], ends: Sequence[float]) -> dict[str, Any]:
    """How fast private memory grew: of each server between restarts, and of the client.

    ends: seconds at which servers ended. The slope is the median of the slopes between all pairs of
    windows (Theil-Sen) after the first 30 %, so that one outlier does not matter.
    """
    edges = [0.0, *sorted(ends), math.inf]
    servers = []
    for begin, end in pairwise(edges):
        own = [one for one in windows if begin < one["at_s"] <= end and one["server"]["processes"]]
        # While a server starts, not all of its processes are there.
        most = max((one["server"]["processes"] for one in own), default=0)
        own = [one for one in own if one["server"]["processes"] == most]
        servers.append({"from_s": begin, **_slope(own, "server")})
    return {"server": servers, "client": _slope(windows, "client")}


def _slope(windows: Sequence[Mapping[str, Any]], who: str) -> dict[str, Any]:
    settled = windows[round(_WARM_UP * len(windows)) :]
    if len(settled) < _FEWEST:
        return {"mib_per_hour": None, "windows": len(settled)}
    hours = np.array([one["at_s"] / 3600 for one in settled])
    mib = np.array([one[who]["memory_bytes"] / MIB for one in settled])
    first, second = np.triu_indices(len(settled), 1)
    slope = float(np.median((mib[second] - mib[first]) / (hours[second] - hours[first])))
    return {
        "mib_per_hour": round(slope, 2),
        "windows": len(settled),
        "first_mib": round(float(mib[0]), 1),
        "last_mib": round(float(mib[-1]), 1),
        "descriptors": [settled[0][who]["descriptors"], settled[-1][who]["descriptors"]],
        "threads": [settled[0][who]["threads"], settled[-1][who]["threads"]],
    }


def defects(document: Mapping[str, Any]) -> dict[str, int]:
    """What must be 0, by name."""
    clicks, left = document["clicks"], document["left"] or {}
    return {
        "clicks lost": clicks["lost"],
        "wrong masks": clicks["wrong"],
        "answers past the deadline": clicks["late"],
        "errors without a type": sum(clicks["untyped"].values()),
        "restarts without recovery": sum(one["recovered"] is False for one in document["events"]),
        "files left in /dev/shm": left.get("shm_files", 0),
        "processes left": left.get("processes", 0),
    }


def _restarts(document: Mapping[str, Any]) -> int:
    return sum(one["recovered"] is not None for one in document["events"])


def table(document: Mapping[str, Any]) -> str:
    """The result as text."""
    clicks, windows = document["clicks"], document["windows"]
    failed = ", ".join(f"{count} {code}" for code, count in clicks["failed"].items()) or "none"
    opens = sum(one["opens"] for one in windows)
    stored = sum(one["stored"] for one in windows)
    lines = [
        f"{document['elapsed_s'] / 60:.1f} minutes, {clicks['answered']} clicks on "
        f"{document['images']} images in {opens} sessions, {_restarts(document)} restarts",
        f"{document['visits']['planned'] - document['visits']['begun']} of "
        f"{document['visits']['planned']} sessions did not begin within the time",
        f"features were stored for {stored} of {opens} sessions",
        f"failed calls, all repeated: {failed}",
        *(f"{name}: {count}" for name, count in defects(document).items()),
        "",
        f"{'ms':10}{'count':>9}{'p50':>9}{'p95':>9}{'p99':>9}{'p99.9':>9}{'max':>10}",
    ]
    for name, times in document["latency_ms"].items():
        cells = [times[key] for key in ("p50", "p95", "p99", "p99.9", "max")]
        shown = "".join(f"{'-' if ms is None else f'{ms:.1f}':>9}" for ms in cells)
        lines.append(f"{name:10}{times['count']:>9}{shown}")
    lines.append("")
    rows = [
        *((f"server from minute {s['from_s'] / 60:.0f}", s) for s in document["growth"]["server"]),
        ("client", document["growth"]["client"]),
    ]
    for name, slope in rows:
        if slope["mib_per_hour"] is not None:
            lines.append(
                f"{name:24}{slope['mib_per_hour']:+8.2f} MiB/h, {slope['first_mib']:.0f} to "
                f"{slope['last_mib']:.0f} MiB; descriptors {slope['descriptors'][0]} to "
                f"{slope['descriptors'][1]}, threads {slope['threads'][0]} to {slope['threads'][1]}"
            )
    return "\n".join(lines) + "\n"
