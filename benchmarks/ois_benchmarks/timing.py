"""Repeated timing that detects when other programs use the machine.

A repetition counts only if other processes used at most a few percent of the cores during it. Their
use is all busy time minus that of this process and its children, from /proc. Medians come with a
bootstrap confidence interval and the number of discarded repetitions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ois_benchmarks.statistics import interval

QUIET_SHARE = 0.06
_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. noisy: there were too few undisturbed repetitions, so all were used.

    discarded: disturbed repetitions. others_share: largest share of the cores that other programs
    used during a repetition that counts.
    """

    median_s: float
    low_s: float
    high_s: float
    repeats: int
    discarded: int
    others_share: float
    noisy: bool
    samples_s: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    run: Callable[[], object], *, repeats: int, warmup: int = 1, patience: int = 4
) -> Timing:
    """Time `run` until there are `repeats` undisturbed repetitions.

    Gives up after `patience` times as many repetitions. warmup: calls that are not timed.
    """
    for _ in range(warmup):
        run()
    quiet: list[float] = []
    every: list[tuple[float, float]] = []
    while len(quiet) < repeats and len(every) < patience * repeats:
        before = _clocks()
        started = time.perf_counter()
        run()
        elapsed = time.perf_counter() - started
        share = _others_share(before, _clocks(), elapsed)
        every.append((elapsed, share))
        if share <= QUIET_SHARE:
            quiet.append(elapsed)
        else:
            time.sleep(min(1.0, elapsed))
    noisy = len(quiet) < repeats
    samples = [elapsed for elapsed, _ in every] if noisy else quiet
    low, high = median_interval(samples)
    used = [share for _, share in every if noisy or share <= QUIET_SHARE]
    return Timing(
        median_s=float(np.median(samples)),
        low_s=low,
        high_s=high,
        repeats=len(samples),
        discarded=0 if noisy else len(every) - len(quiet),
        others_share=round(max(used), 4),
        noisy=noisy,
        samples_s=tuple(samples),
    )


def busy_share(seconds: float = 1.0) -> float:
    """The share of all cores that other programs use, measured while this process sleeps."""
    before = _clocks()
    time.sleep(seconds)
    return round(_others_share(before, _clocks(), seconds), 4)


def median_interval(samples: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """The bootstrap confidence interval of the median. Deterministic."""
    generator = np.random.default_rng(0)
    values = np.asarray(samples)
    medians = np.median(generator.choice(values, (2000, len(values))), axis=1)
    low, high = interval(medians, confidence)
    return float(low), float(high)


def _clocks() -> tuple[float, float]:
    """(busy seconds of all cores since boot, CPU seconds of this process and those it started)."""
    if not _STAT.exists():
        return 0.0, 0.0
    fields = _STAT.read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(f) for f in fields[:8])
    busy = user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK"), time.process_time() + _children_seconds(os.getpid())


def _children_seconds(process: int) -> float:
    """CPU seconds of all running descendants of `process`.

    A server that is measured through its client does not count as another program.
    """
    seconds = 0.0
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(word) for word in listing.read_text().split()]
        except OSError:  # the thread has ended
            continue
        for child in children:
            try:
                after_name = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks = int(after_name[11]) + int(after_name[12])  # utime and stime
            seconds += ticks / os.sysconf("SC_CLK_TCK") + _children_seconds(child)
    return seconds


def _others_share(
    before: tuple[float, float], after: tuple[float, float], elapsed_s: float
) -> float:
    # /proc/stat counts in ticks of 10 ms, too coarse for less than a few ticks.
    if elapsed_s < 0.05:
        return 0.0
    others = (after[0] - before[0]) - (after[1] - before[1])
    return max(0.0, others / (elapsed_s * (os.cpu_count() or 1)))


@dataclass(frozen=True, slots=True)
class Bystanders:
    """What other programs use before and after a measurement that cannot discard repetitions."""

    share_before: float

    @classmethod
    def before(cls, say: Callable[[str], None]) -> Bystanders:
        """Call it before the measurement. Warns if the machine is not quiet."""
        share = busy_share()
        if share > QUIET_SHARE:
            say(f"other programs use {share:.0%} of the cores; the result will be marked as noisy")
        return cls(share)

    def after(self) -> dict[str, Any]:
        """The fields `others_share` and `noisy` of a result, JSON-ready."""
        share = busy_share()
        return {
            "others_share": {"before": self.share_before, "after": share},
            "noisy": max(self.share_before, share) > QUIET_SHARE,
        }
