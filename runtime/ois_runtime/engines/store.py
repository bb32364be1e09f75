"""The feature store: image states by key, limited in bytes and in idle time.

The least recently used entries are evicted first, and an entry that was not used for `ttl_s`
seconds is dropped at the next access. If several callers ask for the same missing key, the first
one encodes and the others wait for it. The lock is never held during an encode, so a slow encode
blocks no other key.
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
    """A value of the store: anything with a size in bytes."""

    @property
    def nbytes(self) -> int: ...


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=Sized)


@dataclass(frozen=True, slots=True)
class Found(Generic[Value]):
    """hit: the value was in the store. kept: it is in the store now, because it fits."""

    value: Value
    hit: bool
    kept: bool


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters since the start, and the current `bytes` and `entries`.

    misses: includes callers that waited for another caller's encode.
    evictions: entries dropped to make room. expirations: entries dropped after `ttl_s`.
    """

    hits: int
    misses: int
    evictions: int
    expirations: int
    bytes: int
    entries: int
    budget_bytes: int


class FeatureStore(Generic[Key, Value]):
    """A thread-safe cache. clock: returns seconds, used only for idle time; tests replace it."""

    def __init__(
        self,
        budget_bytes: int,
        *,
        ttl_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `InvalidInput` if the budget is negative or `ttl_s` is not positive."""
        if budget_bytes < 0:
            raise InvalidInput(f"got a budget of {budget_bytes} bytes; expected 0 or more")
        if not ttl_s > 0:
            raise InvalidInput(f"got ttl_s = {ttl_s}; expected more than 0 seconds")
        self._budget = budget_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        # Ordered by last use: the first entry is the next one to be evicted or to expire.
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._encodes: dict[Key, Future[Value]] = {}
        self._bytes = 0
        self._hits = self._misses = self._evictions = self._expirations = 0

    def get(self, key: Key) -> Value | None:
        """The value, now the most recently used, or None. Does not wait for an encode."""
        with self._lock:
            return self._touch(key)

    def __contains__(self, key: Key) -> bool:
        """Whether the store has the value. Not counted as a use, and not in the statistics."""
        with self._lock:
            self._expire()
            return key in self._entries

    def get_or_encode(
        self, key: Key, make: Callable[[], Value], *, timeout_s: float | None = None
    ) -> Found[Value]:
        """The value of `key`, computed by `make` if it is missing.

        Only one of several concurrent callers runs `make`. If it fails, all of them get its error
        and nothing is stored. `make` must not ask the store for the same key. A value larger than
        the whole budget is returned but not kept. Raises `DeadlineExceeded` if another caller's
        `make` takes longer than `timeout_s`; it continues for the other callers.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        first_try = True
        while True:
            with self._lock:
                value = self._touch(key, count=first_try)
                if value is not None:
                    return Found(value, hit=first_try, kept=True)
                encode = self._encodes.get(key)
                if encode is None:
                    mine: Future[Value] = Future()
                    self._encodes[key] = mine
                    break
            first_try = False
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                value = encode.result(timeout=left)
            except CancelledError:
                continue  # the caller that ran `make` was interrupted: try again
            except TimeoutError as error:
                if encode.done() and not encode.cancelled() and encode.exception() is error:
                    raise  # `make` itself raised the TimeoutError
                raise DeadlineExceeded(
                    f"the image was still being encoded after {timeout_s:g} s; nothing was "
                    "changed, try again"
                ) from None
            return Found(value, hit=False, kept=value.nbytes <= self._budget)
        return self._make(key, make, mine)

    def drop(self, key: Key) -> bool:
        """Remove `key`. Returns whether it was in the store."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._bytes -= entry.nbytes
            return entry is not None

    def clear(self) -> None:
        """Remove everything. Callers of running encodes still get their values."""
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

    def _make(self, key: Key, make: Callable[[], Value], encode: Future[Value]) -> Found[Value]:
        try:
            value = make()
            nbytes = value.nbytes
        except BaseException as error:
            with self._lock:
                del self._encodes[key]
            if isinstance(error, Exception):
                encode.set_exception(error)
            else:
                encode.cancel()  # Ctrl-C in this thread is not an error of the waiting callers
            raise
        with self._lock:
            # In one step, so that another caller finds either the encode or the entry.
            del self._encodes[key]
            kept = self._insert(key, value, nbytes)
        encode.set_result(value)
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
