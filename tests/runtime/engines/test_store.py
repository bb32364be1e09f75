"""The feature store stays within its budget and encodes a missing image only once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ois_client.contract.errors import DeadlineExceeded, EngineError, InvalidInput
from ois_runtime.engines.store import FeatureStore

WAIT_S = 10  # reached only if a test fails


@dataclass
class Features:
    nbytes: int


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Model:
    """A simple model of the store. kept: entries in order of use, oldest first."""

    budget: int
    ttl: int
    now: int = 0
    kept: list[tuple[int, int, int]] = field(default_factory=list)  # key, bytes, used at

    def expire(self) -> None:
        self.kept = [entry for entry in self.kept if self.now - entry[2] < self.ttl]

    def use(self, key: int, nbytes: int) -> bool:
        """Use `key`; returns whether it was kept."""
        self.expire()
        hit = [entry for entry in self.kept if entry[0] == key]
        self.kept = [entry for entry in self.kept if entry[0] != key]
        if hit:
            nbytes = hit[0][1]
        elif nbytes > self.budget:
            return False
        while sum(entry[1] for entry in self.kept) + nbytes > self.budget:
            self.kept.pop(0)
        self.kept.append((key, nbytes, self.now))
        return bool(hit)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12), st.integers(0, 4)), max_size=60))
def test_the_store_is_lru_with_ttl_and_never_over_budget(
    steps: list[tuple[int, int, int]],
) -> None:
    clock, model = Clock(), Model(budget=10, ttl=6)
    store: FeatureStore[int, Features] = FeatureStore(10, ttl_s=6, clock=clock)
    hits = 0
    for key, nbytes, wait in steps:
        found = store.get_or_encode(key, lambda nbytes=nbytes: Features(nbytes))
        hit = model.use(key, nbytes)
        hits += hit
        assert found.hit == hit
        assert found.kept == (found.value.nbytes <= 10)
        stats = store.stats()
        assert stats.bytes == sum(entry[1] for entry in model.kept) <= 10
        assert stats.entries == len(model.kept)
        clock.now = model.now = model.now + wait
    stats = store.stats()
    model.expire()
    assert (stats.hits, stats.misses) == (hits, len(steps) - hits)
    # The same entries are kept as in the model, and looking them up changes nothing.
    alive = {entry[0] for entry in model.kept}
    assert {key for key in range(6) if store.get(key) is not None} == alive


def test_evictions_and_expirations_are_counted_separately() -> None:
    clock = Clock()
    store: FeatureStore[str, Features] = FeatureStore(10, ttl_s=5, clock=clock)
    for key in "abc":
        store.get_or_encode(key, lambda: Features(4))
    assert store.get("a") is None
    clock.now = 5
    stats = store.stats()
    assert (stats.evictions, stats.expirations, stats.entries, stats.bytes) == (1, 2, 0, 0)


def test_use_prolongs_life() -> None:
    clock = Clock()
    store: FeatureStore[str, Features] = FeatureStore(10, ttl_s=5, clock=clock)
    store.get_or_encode("a", lambda: Features(1))
    for clock.now in (4, 8, 12):
        assert store.get("a") is not None
    clock.now = 17
    assert store.get("a") is None


def test_an_entry_larger_than_the_budget_is_served_and_evicts_nothing() -> None:
    store: FeatureStore[str, Features] = FeatureStore(10)
    store.get_or_encode("small", lambda: Features(10))
    found = store.get_or_encode("large", lambda: Features(11))
    assert (found.value.nbytes, found.hit, found.kept) == (11, False, False)
    assert store.get("large") is None
    assert store.get("small") is not None


def test_drop_and_clear_free_the_bytes() -> None:
    store: FeatureStore[str, Features] = FeatureStore(10)
    store.get_or_encode("a", lambda: Features(3))
    store.get_or_encode("b", lambda: Features(4))
    assert store.drop("a")
    assert not store.drop("a")
    assert store.stats().bytes == 4
    store.clear()
    assert (store.stats().bytes, store.stats().entries) == (0, 0)


def test_wrong_limits_are_refused() -> None:
    with pytest.raises(InvalidInput, match="-1 bytes"):
        FeatureStore(-1)
    for ttl_s in (0, -1, float("nan")):
        with pytest.raises(InvalidInput, match="ttl_s"):
            FeatureStore(1, ttl_s=ttl_s)


# -- many callers --------------------------------------------------------------------------


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


class Encode:
    """A `make` function that waits to be released and counts its calls."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.started = threading.Event()
        self.release = threading.Event()
        self.error = error
        self.runs = 0

    def __call__(self) -> Features:
        self.runs += 1
        self.started.set()
        assert self.release.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        return Features(1)


def until_misses(store: FeatureStore[str, Features], count: int) -> None:
    """Wait until `count` callers have passed the look-up, so that they wait or encode."""
    end = time.monotonic() + WAIT_S
    while store.stats().misses < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_concurrent_callers_of_one_key_encode_once(pool: ThreadPoolExecutor) -> None:
    store: FeatureStore[str, Features] = FeatureStore(10)
    encode = Encode()
    callers = [pool.submit(store.get_or_encode, "a", encode) for _ in range(8)]
    until_misses(store, 8)
    encode.release.set()
    values = [caller.result(WAIT_S) for caller in callers]
    assert encode.runs == 1
    assert len({id(found.value) for found in values}) == 1
    assert all(found.kept and not found.hit for found in values)
    assert store.get_or_encode("a", encode).hit


def test_a_slow_encode_blocks_no_other_key(pool: ThreadPoolExecutor) -> None:
    store: FeatureStore[str, Features] = FeatureStore(10)
    slow = Encode()
    caller = pool.submit(store.get_or_encode, "slow", slow)
    assert slow.started.wait(WAIT_S)
    assert store.get_or_encode("quick", lambda: Features(1)).value.nbytes == 1
    assert store.get("slow") is None
    slow.release.set()
    assert caller.result(WAIT_S).kept


@pytest.mark.parametrize("kind", [EngineError, TimeoutError])
def test_a_failure_reaches_all_waiters_and_leaves_nothing(
    pool: ThreadPoolExecutor, kind: type[Exception]
) -> None:
    store: FeatureStore[str, Features] = FeatureStore(10)
    encode = Encode(kind("no memory"))
    callers = [pool.submit(store.get_or_encode, "a", encode, timeout_s=WAIT_S) for _ in range(8)]
    until_misses(store, 8)
    encode.release.set()
    for caller in callers:
        with pytest.raises(kind, match="no memory"):
            caller.result(WAIT_S)
    assert encode.runs == 1
    assert store.stats().entries == 0
    assert store.get_or_encode("a", lambda: Features(2)).value.nbytes == 2


def test_an_interrupt_reaches_only_its_own_caller(pool: ThreadPoolExecutor) -> None:
    store: FeatureStore[str, Features] = FeatureStore(10)
    interrupted = Encode(KeyboardInterrupt())
    first = pool.submit(store.get_or_encode, "a", interrupted)
    assert interrupted.started.wait(WAIT_S)
    second = Encode()
    second.release.set()
    others = [pool.submit(store.get_or_encode, "a", second) for _ in range(4)]
    until_misses(store, 5)
    interrupted.release.set()
    with pytest.raises(KeyboardInterrupt):
        first.result(WAIT_S)
    assert all(other.result(WAIT_S).kept for other in others)
    assert second.runs == 1


def test_a_waiter_gives_up_at_its_deadline_and_the_encode_goes_on(
    pool: ThreadPoolExecutor,
) -> None:
    store: FeatureStore[str, Features] = FeatureStore(10)
    encode = Encode()
    first = pool.submit(store.get_or_encode, "a", encode)
    assert encode.started.wait(WAIT_S)
    with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
        store.get_or_encode("a", encode, timeout_s=0.01)
    encode.release.set()
    assert first.result(WAIT_S).kept
    assert store.get("a") is not None


def test_the_counters_are_right_with_many_threads_and_keys(pool: ThreadPoolExecutor) -> None:
    store: FeatureStore[int, Features] = FeatureStore(50)
    over_budget = threading.Event()

    def work(seed: int) -> int:
        rng = random.Random(seed)
        for _ in range(300):
            key = rng.randrange(12)
            found = store.get_or_encode(key, lambda key=key: Features(5 + key))
            assert found.value.nbytes == 5 + key
            if rng.random() < 0.05:
                store.drop(key)
            if store.stats().bytes > 50:
                over_budget.set()
        return 300

    calls = sum(pool.map(work, range(16)))
    stats = store.stats()
    assert not over_budget.is_set()
    assert stats.hits + stats.misses == calls
    alive = [value for key in range(12) if (value := store.get(key)) is not None]
    assert stats.bytes == sum(value.nbytes for value in alive)
