"""Where images go, what stores keep, and what is lost with a replica, in the simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ois_benchmarks.capacity.hashing import SLOTS, Balancer, maglev, moved
from ois_benchmarks.capacity.machines import ReplicaOptions
from ois_benchmarks.capacity.readout import CapacityPlan, Readout
from ois_benchmarks.capacity.service import ServiceTimes
from ois_benchmarks.capacity.simulation import Cluster, Loss, Outcome, simulate
from ois_benchmarks.capacity.statistics import over_time, suffering
from ois_benchmarks.capacity.table import markdown
from ois_benchmarks.capacity.workload import Session, Workload
from ois_benchmarks.load.pacing import ThinkTime
from ois_client.contract.errors import InvalidInput

FAST = ServiceTimes(click_s=(0.002,), encode_s=(0.005,))
NO_BOUND = 10**6

# -- hashing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 10, 100])
def test_a_lost_replica_moves_its_share_of_the_images_and_few_others(count: int) -> None:
    names = [f"replica-{n}" for n in range(count)]
    before = maglev(names)
    slots = np.bincount(before, minlength=count)
    assert slots.max() - slots.min() <= 1  # equal shares
    lost = count // 2
    left = [n for n in range(count) if n != lost]
    after = np.array(left, np.int32)[maglev([names[n] for n in left])]
    own, others = moved(before, after, lost)
    assert own == pytest.approx(1 / count, abs=2 / SLOTS)
    assert others < 0.012
    # Those that must move go to nearly all others.
    new = np.bincount(after[before == lost], minlength=count)
    assert new[lost] == 0
    assert np.count_nonzero(new) >= 0.95 * (count - 1)


def test_a_hot_image_gets_a_second_replica_which_is_always_the_same() -> None:
    seen = []
    for _ in range(2):
        balancer = Balancer(10, balance_percent=200)
        chosen = [balancer.choose(12_345) for _ in range(20)]
        seen.append(chosen)
    assert seen[0] == seen[1]
    first = seen[0][0]
    assert seen[0][:3].count(first) == 2  # the third request finds two in progress
    # None has more than twice its share of the 20 requests, and one that was under way.
    assert np.bincount(seen[0]).max() <= math.ceil(2 * 20 / 10) + 1


def test_without_a_bound_an_image_stays_where_it_is() -> None:
    balancer = Balancer(10, balance_percent=NO_BOUND)
    assert len({balancer.choose(12_345) for _ in range(50)}) == 1
    balancer.done(balancer.choose(12_345))
    home = balancer.choose(12_345)
    balancer.lose(home)
    assert balancer.choose(12_345) != home
    balancer.restore()
    assert balancer.choose(12_345) == home


# -- people --------------------------------------------------------------------------------------


def test_sessions_have_the_clicks_and_pauses_of_the_workload() -> None:
    work = Workload(objects=2.0, clicks={1: 3.0, 5: 1.0}, think=ThinkTime(median_s=2, sigma=0.5))
    sessions = work.sessions(50, 200, seed=1)
    assert len(sessions) == pytest.approx(10_000, rel=0.05)
    counts = np.array([len(one.pauses_s) for one in sessions])
    assert work.clicks_per_session == 4.0
    assert counts.mean() == pytest.approx(4.0, rel=0.05)
    pauses = np.concatenate([one.pauses_s for one in sessions])
    assert np.median(pauses) == pytest.approx(2, rel=0.03)
    assert pauses.mean() == pytest.approx(work.think.mean_s, rel=0.03)
    assert len({one.image for one in sessions}) == len(sessions)
    assert work.sessions(50, 200, seed=1) == sessions


def test_popular_images_follow_zipf() -> None:
    work = Workload(catalogue=50, zipf=1.0)
    images = [one.image for one in work.sessions(100, 200, seed=2)]
    share = np.bincount(images, minlength=50) / len(images)
    expected = 1 / np.arange(1, 51) / sum(1 / n for n in range(1, 51))
    assert np.abs(share - expected).max() < 0.01


@pytest.mark.parametrize(
    "changes", [{"objects": 0.5}, {"clicks": {}}, {"clicks": {0: 1.0}}, {"catalogue": -1}]
)
def test_a_workload_out_of_range_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        Workload(**changes)  # type: ignore[arg-type]


# -- stores --------------------------------------------------------------------------------------


def opens_of(work: Workload, store: int, replicas: int = 1, count: int = 12_000) -> Outcome:
    """Sessions with one click right after the image is opened."""
    sessions = work.sessions(100, count / 100, seed=5)
    cluster = Cluster(
        replicas=replicas,
        options=ReplicaOptions(store_images=store),
        balance_percent=NO_BOUND,
    )
    return simulate(cluster, FAST, sessions, warm_up_s=10)


QUICK = {"objects": 1.0, "clicks": {1: 1.0}, "think": ThinkTime(median_s=1e-4, sigma=0.0)}


def test_equally_popular_images_are_found_as_often_as_they_fit() -> None:
    outcome = opens_of(Workload(catalogue=200, **QUICK), store=60)  # type: ignore[arg-type]
    assert outcome.opens.hit.mean() == pytest.approx(60 / 200, abs=0.02)
    assert outcome.clicks.hit.mean() > 0.99  # they come at once
    assert outcome.evictions == pytest.approx(12_000 * (1 - 60 / 200), rel=0.04)


def test_popular_images_are_found_as_an_lru_store_of_this_size_does() -> None:
    """Che's approximation: an image is stored if it was opened within a time that fills the
    store."""
    catalogue, store, zipf = 300, 60, 0.9
    outcome = opens_of(Workload(catalogue=catalogue, zipf=zipf, **QUICK), store)  # type: ignore[arg-type]
    popularity = np.arange(1, catalogue + 1) ** -zipf
    popularity /= popularity.sum()
    low, high = 0.0, 1e6
    for _ in range(100):
        age = (low + high) / 2
        low, high = (age, high) if (1 - np.exp(-popularity * age)).sum() < store else (low, age)
    expected = float((popularity * (1 - np.exp(-popularity * low))).sum())
    assert outcome.opens.hit.mean() == pytest.approx(expected, abs=0.02)


def test_stores_of_replicas_add_up() -> None:
    work = Workload(catalogue=200, **QUICK)  # type: ignore[arg-type]
    assert opens_of(work, store=30, replicas=4).opens.hit.mean() == pytest.approx(0.6, abs=0.06)


def test_too_small_a_store_costs_clicks_an_encode_each() -> None:
    """Two people in turns on one replica that holds one image."""
    times = ServiceTimes(click_s=(0.01,), encode_s=(0.1,))
    pauses = (1.0, 1.0, 1.0)
    sessions = [Session(0.0, 1, pauses), Session(0.5, 2, pauses)]
    one = Cluster(replicas=1, options=ReplicaOptions(store_images=1))
    outcome = simulate(one, times, sessions)
    assert not outcome.clicks.hit.any()
    assert outcome.clicks.ms.tolist() == pytest.approx(6 * [110])
    assert outcome.evictions == 7  # each of 8 encodes but the first
    two = Cluster(replicas=1, options=ReplicaOptions(store_images=2))
    assert simulate(two, times, sessions).clicks.hit.all()


def test_people_who_open_the_same_image_wait_for_one_encode() -> None:
    times = ServiceTimes(click_s=(0.01,), encode_s=(0.1,))
    sessions = [Session(0.0, 9, ()), Session(0.05, 9, ())]
    outcome = simulate(Cluster(replicas=1), times, sessions)
    assert outcome.opens.ms.tolist() == pytest.approx([100, 50])


# -- a loss --------------------------------------------------------------------------------------


def test_a_lost_replica_costs_its_own_images_one_encode_each() -> None:
    work = Workload(objects=4.0, clicks={3: 1.0}, think=ThinkTime(median_s=1.0, sigma=0.2))
    sessions = work.sessions(20, 60, seed=6)
    cluster = Cluster(replicas=5, balance_percent=NO_BOUND)
    whole = simulate(cluster, FAST, sessions, warm_up_s=25)
    assert whole.clicks.hit.all()
    loss = Loss(at_s=40, down_s=100)
    outcome = simulate(cluster, FAST, sessions, warm_up_s=25, loss=loss)
    assert len(outcome.clicks.ms) == len(whole.clicks.ms)  # none is lost
    missed = outcome.clicks.due_s[~outcome.clicks.hit]
    assert missed.min() >= 40 - 1
    alive = 20 * work.session_s  # sessions under way
    assert len(missed) == pytest.approx(alive / 5, rel=0.35)
    rows = over_time(outcome, 38, 50, 2)
    assert rows[0]["hit_share"] == 1
    assert rows[1]["hit_share"] < 0.95
    found = suffering(outcome, 40, 40, 60, 2)["hit_share"]
    assert found["before"] == 1
    assert found["worst"] == rows[1]["hit_share"]
    assert 2 <= found["suffers_s"] <= 6
    later = suffering(outcome, 40, 52, 60, 2)["hit_share"]
    assert (later["worst"], later["suffers_s"]) == (1, 0)


def test_a_replica_that_comes_back_is_empty() -> None:
    work = Workload(objects=4.0, clicks={3: 1.0}, think=ThinkTime(median_s=1.0, sigma=0.2))
    sessions = work.sessions(20, 60, seed=6)
    cluster = Cluster(replicas=5, balance_percent=NO_BOUND)
    loss = Loss(at_s=30, down_s=15)
    missed = simulate(cluster, FAST, sessions, warm_up_s=25, loss=loss).clicks
    times = missed.due_s[~missed.hit]
    assert ((times > 29) & (times < 40)).sum() > 10
    assert ((times >= 44) & (times < 55)).sum() > 10


# -- the readout ---------------------------------------------------------------------------------


def test_a_small_readout_is_whole_and_the_same_again() -> None:
    plan = CapacityPlan(
        sizes=(3, 8),
        loads=(0.3, 0.6),
        balances=(200, 1000),
        stores=(0.5, 4.0),
        middle=6,
        clicks=1500,
        clicks_per_step=200,
        workload=Workload(objects=1.0, think=ThinkTime(median_s=0.3)),
    )
    times = ServiceTimes(click_s=(0.02, 0.03), encode_s=(0.05,))
    first, again = Readout(times, plan), Readout(times, plan)
    first.run()
    again.run()
    document = first.document
    assert document == again.document
    assert document["complete"]
    sizes, loads, stores = document["sizes"], document["loads"], document["stores"]
    assert sizes[1]["clicks_per_second"] == pytest.approx(
        8 / 3 * sizes[0]["clicks_per_second"], 0.01
    )
    assert loads[0]["clicks"]["p99"] < loads[1]["clicks"]["p99"]
    assert stores[0]["clicks"]["hit_share"] < stores[1]["clicks"]["hit_share"]
    assert stores[0]["evictions_per_second"] > stores[1]["evictions_per_second"]
    balances = document["balances"]
    assert balances[0]["clicks"]["hit_share"] < balances[1]["clicks"]["hit_share"]
    for loss in document["losses"]:
        lost = loss["lost"]["hit_share"]
        assert lost["worst"] < lost["before"]
    assert markdown(document).count("\n**") == 4  # and one at the beginning
