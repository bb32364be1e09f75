"""The result of a chaos run.

    {"benchmark": "chaos", "schema": 1, "complete": true, "target": ..., "model": ...,
     "plan": ..., "images": [...], "machine": ..., "others_share": 0.9, "skipped": {...},
     "faults": [{"fault": "kill-server", "at_s": 3.1, "held_s": 0.0, "recover_s": 4.2,
                 "restarts": 1}, ...],
     "clicks": {"answered": 812, "failed": {"SERVER_UNAVAILABLE": 40}, "lost": 0, "wrong": 0,
                "late": 0, "untyped": {}, "slowest_s": 9.8},
     "recovery_s": {"all": {"count": 39, "p50": {...}, "p95": {...}, "p99": null, "max": 6.1}, ...}}

A time to recover runs from the end of a fault (a kill ends at once) until every user has an answer
to a click that began after it. It is null if that took longer than the plan allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ois_benchmarks.chaos.faults import Fault
from ois_benchmarks.chaos.users import Counts
from ois_benchmarks.statistics import quantiles

SCHEMA = 1
_KILLS = frozenset(fault.value for fault in Fault if fault.kills)


@dataclass(frozen=True, slots=True)
class Inflicted:
    """One fault. at_s: since the run began. restarts: of the server, until it had recovered."""

    fault: str
    at_s: float
    held_s: float
    recover_s: float | None
    restarts: int


def add_up(counts: Sequence[Counts]) -> dict[str, Any]:
    """The counts of all users together, JSON-ready."""
    failed: Counter[str] = sum((one.failed for one in counts), Counter())
    untyped: Counter[str] = sum((one.untyped for one in counts), Counter())
    return {
        "answered": sum(one.answered for one in counts),
        "failed": dict(sorted(failed.items())),
        "lost": sum(one.lost for one in counts),
        "wrong": sum(one.wrong for one in counts),
        "late": sum(one.late for one in counts),
        "untyped": dict(untyped.most_common(20)),
        "slowest_s": round(max((one.slowest_s for one in counts), default=0.0), 3),
    }


def recovery(faults: Sequence[Inflicted]) -> dict[str, Any]:
    """Times to recover: of all faults, of those that kill a process, and of each kind."""
    groups: dict[str, list[Inflicted]] = {
        "all": list(faults),
        "kills": [one for one in faults if one.fault in _KILLS],
    }
    for kind in Fault:
        groups[kind] = [one for one in faults if one.fault == kind]
    return {str(name): _times(group) for name, group in groups.items() if group}


def _times(faults: Sequence[Inflicted]) -> dict[str, Any]:
    times = [one.recover_s for one in faults if one.recover_s is not None]
    stated = {name: one and one.to_dict() for name, one in quantiles(times).items()}
    return {"count": len(faults), **stated, "max": max(times, default=None)}


def defects(document: Mapping[str, Any]) -> dict[str, int]:
    """What must be 0, by name."""
    clicks = document["clicks"]
    return {
        "clicks lost": clicks["lost"],
        "wrong masks": clicks["wrong"],
        "answers past the deadline": clicks["late"],
        "errors without a type": sum(clicks["untyped"].values()),
        "faults without recovery": sum(one["recover_s"] is None for one in document["faults"]),
    }


def to_json(faults: Sequence[Inflicted]) -> list[dict[str, Any]]:
    return [asdict(one) for one in faults]


def table(document: Mapping[str, Any]) -> str:
    """The result as text: what must be 0, and a line per kind of fault."""
    clicks = document["clicks"]
    failed = ", ".join(f"{count} {code}" for code, count in clicks["failed"].items()) or "none"
    lines = [
        f"{clicks['answered']} clicks answered; failed calls, all repeated: {failed}",
        *(f"{name}: {count}" for name, count in defects(document).items()),
        "",
        f"{'time to recover, s':20}{'count':>6}{'p50':>8}{'p99':>8}{'max':>8}",
    ]
    for name, times in document["recovery_s"].items():
        cells = (times["p50"] and times["p50"]["value"], times["p99"] and times["p99"]["value"])
        shown = "".join(f"{'-' if n is None else f'{n:.2f}':>8}" for n in (*cells, times["max"]))
        lines.append(f"{name:20}{times['count']:>6}{shown}")
    lines += [f"skipped: {name}: {why}" for name, why in document["skipped"].items()]
    return "\n".join(lines) + "\n"
