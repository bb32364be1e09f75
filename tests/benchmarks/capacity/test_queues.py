"""The simulation agrees with formulas for queues, and with a real server that was measured."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ois_benchmarks.capacity.machines import ReplicaOptions
from ois_benchmarks.capacity.service import ServiceTimes, times_of_load
from ois_benchmarks.capacity.simulation import Cluster, Outcome, simulate
from ois_benchmarks.capacity.statistics import summary
from ois_benchmarks.capacity.workload import Session
from ois_benchmarks.results import read_json
from ois_client.contract.errors import InvalidInput

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
SERVICE_S = 0.05
EXPONENTIAL = tuple(np.random.default_rng(7).exponential(SERVICE_S, 50_000).tolist())
ENDLESS = 10**9


def clicks_of(
    click_s: tuple[float, ...], rate: float, *, workers: int, parallel: float, count: int = 20_000
) -> Outcome:
    """Clicks at Poisson times on images whose features are there."""
    times = np.random.default_rng(8).exponential(1 / rate, count).cumsum()
    sessions = [Session(at, number, (1.0,)) for number, at in enumerate(times.tolist())]
    options = ReplicaOptions(
        click_workers=workers, parallel=parallel, queue=ENDLESS, store_images=ENDLESS
    )
    free = ServiceTimes(click_s=click_s, encode_s=(0.0,))
    warm_up_s = float(times[count // 20])
    return simulate(Cluster(replicas=1, options=options), free, sessions, warm_up_s=warm_up_s)


def mean_s(outcome: Outcome) -> float:
    assert outcome.clicks.hit.all()
    return float(outcome.clicks.ms.mean()) / 1e3


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_worker_with_exponential_times_is_m_m_1(load: float) -> None:
    service = float(np.mean(EXPONENTIAL))
    found = clicks_of(EXPONENTIAL, load / service, workers=1, parallel=1)
    assert mean_s(found) == pytest.approx(service / (1 - load), rel=0.08)
    # The time in an M/M/1 queue is exponential itself.
    p99 = float(np.quantile(found.clicks.ms, 0.99)) / 1e3
    assert p99 == pytest.approx(-math.log(0.01) * service / (1 - load), rel=0.15)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_worker_with_constant_times_is_m_d_1(load: float) -> None:
    found = mean_s(clicks_of((SERVICE_S,), load / SERVICE_S, workers=1, parallel=1))
    assert found - SERVICE_S == pytest.approx(load * SERVICE_S / (2 * (1 - load)), rel=0.08)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_workers_with_a_processor_each_are_m_m_c(load: float) -> None:
    service, workers = float(np.mean(EXPONENTIAL)), 4
    found = mean_s(clicks_of(EXPONENTIAL, workers * load / service, workers=workers, parallel=4))
    offered = workers * load
    full = offered**workers / math.factorial(workers) / (1 - load)
    waits = full / (sum(offered**n / math.factorial(n) for n in range(workers)) + full)
    assert found == pytest.approx(service * (1 + waits / (workers * (1 - load))), rel=0.05)


def test_shared_processors_do_not_care_for_the_distribution() -> None:
    """M/G/1 with processor sharing: the mean depends on the load alone."""
    load = 0.6
    for times in ((SERVICE_S,), EXPONENTIAL):
        service = float(np.mean(times))
        found = mean_s(clicks_of(times, load / service, workers=ENDLESS, parallel=1))
        assert found == pytest.approx(service / (1 - load), rel=0.08)


def test_replicas_on_one_machine_slow_each_other_down() -> None:
    """Two clicks at once, on different replicas: each takes twice as long on one processor."""
    free = ServiceTimes(click_s=(0.1,), encode_s=(0.0,))
    sessions = [Session(0.0, image, (1.0,)) for image in range(12)]
    together = simulate(Cluster(replicas=4, machine_parallel=1.0), free, sessions)
    assert together.clicks.ms.max() == pytest.approx(1200, rel=0.01)
    assert len(set(np.flatnonzero(together.sent))) > 1
    apart = simulate(Cluster(replicas=4), free, sessions)
    assert apart.clicks.ms.max() < 1200


def test_a_full_queue_refuses_and_clients_come_back() -> None:
    slow = ServiceTimes(click_s=(1.0,), encode_s=(0.0,))
    sessions = [Session(0.0, image, (1.0,)) for image in range(20)]
    options = ReplicaOptions(click_workers=1, queue=4)
    outcome = simulate(Cluster(replicas=1, options=options), slow, sessions)
    assert outcome.clicks.failed + len(outcome.clicks.ms) == 20
    assert 20 - (4 + 1) - 3 <= outcome.clicks.failed < 20 - (4 + 1)  # some found room later


def test_a_measured_server_is_as_fast_as_its_simulation() -> None:
    """Clicks that arrived at a real server on a quiet machine, at up to 70 % of what it can do."""
    document = read_json(RESULTS / "load-ois-tiny-cpu.json")
    times, parallel = times_of_load(document, 1)
    free = ServiceTimes(click_s=times.click_s, encode_s=(0.0,), other_s=times.other_s)
    compared = 0
    for step in document["steps"]:
        if step["pace"] != "arrivals" or step["level"] > 0.7 * document["saturation"]["rate"]:
            continue
        arrivals = np.sort(np.random.default_rng(3).uniform(0, 8000 / step["level"], 8000))
        sessions = [Session(at, n % 500, (1.0,)) for n, at in enumerate(arrivals.tolist())]
        options = ReplicaOptions(parallel=parallel, store_images=ENDLESS)
        found = summary(simulate(Cluster(replicas=1, options=options), free, sessions).clicks)
        for name in ("p50", "p95", "p99"):
            real = step["latency_ms"][name]["value"]
            assert real / 1.3 <= found[name] <= real * 1.3, (step["label"], name, real, found[name])
            compared += 1
    assert compared >= 6


def test_a_result_of_another_benchmark_has_no_service_times() -> None:
    with pytest.raises(InvalidInput, match="ois bench load"):
        times_of_load({"steps": []}, 1)


def test_times_can_be_scaled_to_another_device() -> None:
    times = ServiceTimes(click_s=(0.01, 0.02, 0.06), encode_s=(0.1,)).scaled(click_s=0.002)
    assert times.click_s == pytest.approx((0.001, 0.002, 0.006))
    assert times.encode_s == (0.1,)
