"""Timing keeps its samples and notices when other programs use the cores."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ois_benchmarks import timing


class Bench:
    """A machine whose clocks advance only in `run`, by 0.1 s of our own work each time."""

    def __init__(self) -> None:
        self.wall = self.own = self.busy = 0.0
        #: Seconds that other programs are busy, for each of the next repetitions.
        self.others: list[float] = []

    def run(self) -> None:
        self.wall += 0.1
        self.own += 0.1
        self.busy += 0.1 + (self.others.pop(0) if self.others else 0.0)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    clock = SimpleNamespace(perf_counter=lambda: bench.wall, sleep=lambda _seconds: None)
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "_clocks", lambda: (bench.busy, bench.own))
    return bench


ALL_CORES = 0.1 * (os.cpu_count() or 1)


def test_a_disturbed_repetition_does_not_count(bench: Bench) -> None:
    bench.others = [0.0, ALL_CORES, 0.0, ALL_CORES, 0.0]  # the first is the warm-up
    result = timing.measure(bench.run, repeats=3)
    assert (result.repeats, result.discarded, result.noisy) == (3, 2, False)
    assert result.median_s == pytest.approx(0.1)
    assert result.others_share == 0


def test_a_machine_that_never_gets_quiet_is_reported_as_noisy(bench: Bench) -> None:
    bench.others = [ALL_CORES] * 100
    result = timing.measure(bench.run, repeats=3, patience=2)
    assert (result.repeats, result.discarded, result.noisy) == (6, 0, True)
    assert result.others_share == pytest.approx(1.0)


def test_the_result_is_what_was_run() -> None:
    calls: list[int] = []
    result = timing.measure(lambda: calls.append(len(calls)), repeats=4, warmup=2)
    assert len(calls) >= 6
    assert len(result.samples_s) == result.repeats == len(calls) - 2
    assert json.loads(json.dumps(result.to_dict()))["median_s"] == result.median_s


def test_the_interval_of_a_median_holds_it_and_does_not_change() -> None:
    samples = list(np.random.default_rng(0).lognormal(0, 0.3, 41))
    low, high = timing.median_interval(samples)
    assert low <= np.median(samples) <= high
    assert (low, high) == timing.median_interval(samples)
    assert timing.median_interval([2.0]) == (2.0, 2.0)
    wide = timing.median_interval(samples, confidence=0.99)
    assert wide[0] <= low
    assert wide[1] >= high


def test_the_share_of_others_is_the_busy_time_that_is_not_ours() -> None:
    cores = os.cpu_count() or 1
    share = timing._others_share((10.0, 5.0), (10.0 + cores, 5.5), 1.0)
    assert share == pytest.approx((cores - 0.5) / cores)
    assert timing._others_share((10.0, 5.0), (10.2, 5.3), 1.0) == 0  # never below zero
    assert timing._others_share((10.0, 5.0), (99.0, 5.0), 0.01) == 0  # too short to judge


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat on this system")
def test_the_clocks_count_our_own_work() -> None:
    before = timing._clocks()
    until = time.process_time() + 0.1  # CPU time: on a busy machine this takes longer
    while time.process_time() < until:
        pass
    after = timing._clocks()
    assert after[0] >= before[0] + 0.03
    assert after[1] >= before[1] + 0.03
