"""Results of the trunk that two requests for one click share: its coarse answer and its full one.

Both need the trunk, and they arrive at about the same time, in either order. Whoever comes first
computes it; the other waits for it, or finds it. A result that is not found is computed again, so
forgetting one costs time and nothing else.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.pair import HostPrompts

#: A few clicks of ViT-B, or many of smaller networks.
BUDGET_BYTES = 64 * 2**20
MOST = 8


@dataclass(frozen=True, slots=True, eq=False)
class TrunkResult:
    """path (N, f, 4 gh, 4 gw) and coarse (N, 4 gh, 4 gw), both shared: do not change them."""

    path: NDArray[Any]
    coarse: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return int(self.path.nbytes + self.coarse.nbytes)


@dataclass(slots=True, eq=False)
class _Entry:
    """The weak reference tells whether the key's id is still that of the same state."""

    state: weakref.ref[ImageState]
    result: Future[TrunkResult] = field(default_factory=Future)

    @property
    def nbytes(self) -> int:
        """0 while the result is computed, and if that failed."""
        done = self.result.done() and self.result.exception() is None
        return self.result.result().nbytes if done else 0


#: The id of an image state and the bytes of its prompts.
_Key = tuple[int, bytes, bytes, bytes, bytes]


class TrunkResults:
    """A small thread-safe cache, by image state and exact prompts."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES, most: int = MOST) -> None:
        self._budget, self._most = budget_bytes, most
        self._lock = threading.Lock()
        self._entries: dict[_Key, _Entry] = {}  # oldest first

    @contextmanager
    def shared(
        self,
        state: ImageState,
        prompts: HostPrompts,
        compute: Callable[[], TrunkResult],
        *,
        keep: bool,
    ) -> Iterator[TrunkResult]:
        """The result for these prompts, which others can find during the block.

        keep: keep it after the block, for the full answer. The block of the full answer drops it.
        Raises what `compute` raises.
        """
        points, labels, coverage, has_previous = (array.tobytes() for array in prompts)
        key = (id(state), points, labels, coverage, has_previous)
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.state() is not state:  # its id was given away again
                entry = None
            first = entry is None
            if entry is None:
                entry = self._entries[key] = _Entry(weakref.ref(state))
        try:
            yield _computed(entry, compute) if first else _found(entry, compute)
        finally:
            with self._lock:
                if not (keep and entry.nbytes) and self._entries.get(key) is entry:
                    del self._entries[key]
                self._make_room()

    def __len__(self) -> int:
        return len(self._entries)

    def _make_room(self) -> None:
        """Drop what belongs to dropped images, then the oldest results. Needs the lock."""
        for key in [key for key, entry in self._entries.items() if entry.state() is None]:
            del self._entries[key]
        sizes = {key: entry.nbytes for key, entry in self._entries.items()}
        total = sum(sizes.values())
        for key, size in sizes.items():
            if total <= self._budget and len(self._entries) <= self._most:
                return
            if size:  # it is not being computed
                del self._entries[key]
                total -= size


def _computed(entry: _Entry, compute: Callable[[], TrunkResult]) -> TrunkResult:
    try:
        result = compute()
    except BaseException as error:
        entry.result.set_exception(error)
        raise
    entry.result.set_result(result)
    return result


def _found(entry: _Entry, compute: Callable[[], TrunkResult]) -> TrunkResult:
    if entry.result.exception() is not None:  # waits; it was the other's, this one tries itself
        return compute()
    return entry.result.result()
