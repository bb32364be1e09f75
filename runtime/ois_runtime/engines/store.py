"""The feature store: image states by key, bounded in bytes and in idle time.

Least recently used entries leave first, and an entry that nobody used for `ttl_s` leaves at
the next access. Concurrent callers of one missing key run its encoder once: the first makes,
the others wait. Nothing waits while the lock is held, so a slow encode blocks no other key.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ois_client.contract.errors import DeadlineExceeded, InvalidInput


class Sized(Protocol):
    """What the store keeps: anything that knows its memory in bytes."""

    @property
    def nbytes(self) -> int: ...


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=Sized)


@dataclass(frozen=True, slots=True)
class Found(Generic[Value]):
    """hit: the value was there already. kept: it is in the store now (small enough)."""

    value: Value
    hit: bool
    kept: bool


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters since the start; `bytes` and `entries` are of this moment.

    A caller that waited for another's encode counts as a miss. Evictions made room;
    expirations were idle too long.
    """

    hits: int
    misses: int
    evictions: int
    expirations: int
    bytes: int
    entries: int
    budget_bytes: int


class FeatureStore(Generic[Key, Value]):
    """Thread-safe; `clock` gives seconds and is only for idle time (tests inject one)."""

    def __init__(
        self,
        budget_bytes: int,
        *,
        ttl_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `InvalidInput` for a negative budget or a `ttl_s` that is not positive."""
        if budget_bytes < 0:
            raise InvalidInput(f"got a budget of {budget_bytes} bytes; expected 0 or more")
        if not ttl_s > 0:
            raise InvalidInput(f"got ttl_s = {ttl_s}; expected more than 0 seconds")
        self._budget = budget_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        # In order of last use, oldest first: the front is next to be evicted and to expire.
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._flights: dict[Key, Future[Value]] = {}
        self._bytes = 0
        self._hits = self._misses = self._evictions = self._expirations = 0

    def get(self, key: Key) -> Value | None:
        """The value, which becomes the most recently used, or None. Never waits."""
        with self._lock:
            return self._touch(key)

    def __contains__(self, key: Key) -> bool:
        """Whether the value is there. Counts neither as a use nor in the statistics."""
        with self._lock:
            self._expire()
            return key in self._entries

    def get_or_encode(
        self, key: Key, make: Callable[[], Value], *, timeout_s: float | None = None
    ) -> Found[Value]:
        """The value of `key`, made by `make` when it is missing.

        Of concurrent callers one runs `make`; its error reaches all of them and leaves nothing
        behind. `make` must not ask the store for its own key. A value larger than the whole
        budget is returned but not kept. Raises `DeadlineExceeded` when another caller's
        `make` does not end within `timeout_s` (it goes on for the others).
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        first_try = True
        while True:
            with self._lock:
                value = self._touch(key, count=first_try)
                if value is not None:
                    return Found(value, hit=first_try, kept=True)
                flight = self._flights.get(key)
                if flight is None:
                    mine: Future[Value] = Future()
                    self._flights[key] = mine
                    break
            first_try = False
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                value = flight.result(timeout=left)
            except CancelledError:
                continue  # its maker was interrupted, which is no answer: try again
            except TimeoutError as error:
                if flight.done() and not flight.cancelled() and flight.exception() is error:
                    raise  # the encoder's own TimeoutError, not the end of our patience
                raise DeadlineExceeded(
                    f"the image was still being encoded after {timeout_s:g} s; nothing was "
                    "changed, try again"
                ) from None
            return Found(value, hit=False, kept=value.nbytes <= self._budget)
        return self._make(key, make, mine)

    def drop(self, key: Key) -> bool:
        """Forget `key`; whether it was there."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._bytes -= entry.nbytes
            return entry is not None

    def clear(self) -> None:
        """Forget everything; encodes under way still answer their callers."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def stats(self) -> StoreStats:
        with self._lock:
            self._expire()
            return StoreStats(
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
                expirations=self._expirations,
                bytes=self._bytes,
                entries=len(self._entries),
                budget_bytes=self._budget,
            )

    def _make(self, key: Key, make: Callable[[], Value], flight: Future[Value]) -> Found[Value]:
        try:
            value = make()
            nbytes = value.nbytes
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            if isinstance(error, Exception):
                flight.set_exception(error)
            else:
                flight.cancel()  # Ctrl-C in this thread is not the waiters' error
            raise
        with self._lock:
            # One step: whoever finds no flight finds the entry.
            del self._flights[key]
            kept = self._insert(key, value, nbytes)
        flight.set_result(value)
        return Found(value, hit=False, kept=kept)

    def _touch(self, key: Key, *, count: bool = True) -> Value | None:
        self._expire()
        entry = self._entries.get(key)
        if count:
            self._hits += entry is not None
            self._misses += entry is None
        if entry is None:
            return None
        entry.used_at = self._clock()
        self._entries.move_to_end(key)
        return entry.value

    def _insert(self, key: Key, value: Value, nbytes: int) -> bool:
        if nbytes > self._budget:
            return False
        while self._bytes + nbytes > self._budget:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.nbytes
            self._evictions += 1
        self._entries[key] = _Entry(value, nbytes, self._clock())
        self._bytes += nbytes
        return True

    def _expire(self) -> None:
        now = self._clock()
        while self._entries:
            key, oldest = next(iter(self._entries.items()))
            if now - oldest.used_at < self._ttl_s:
                return
            del self._entries[key]
            self._bytes -= oldest.nbytes
            self._expirations += 1


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    nbytes: int
    used_at: float
