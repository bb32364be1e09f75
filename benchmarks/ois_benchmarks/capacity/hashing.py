"""Which replica gets a request: Maglev over the image's digest, with bounded load, as in Envoy.

A request goes to the replica of its digest unless that one has more than its share of the requests
in progress; then to the first replica with room, in an order that depends on the digest alone, so
that an image which is hot has a second place which is always the same.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Envoy's default: a prime number of slots.
SLOTS = 65_537


def maglev(names: Sequence[str]) -> NDArray[np.int32]:
    """(SLOTS,) the index of the replica of each slot, not to be changed. names: what is hashed."""
    return _maglev(tuple(names))


@functools.lru_cache(maxsize=64)
def _maglev(names: tuple[str, ...]) -> NDArray[np.int32]:
    slots = SLOTS
    hashes = [hashlib.blake2b(name.encode(), digest_size=16).digest() for name in names]
    place = [int.from_bytes(one[:8], "little") % slots for one in hashes]
    skip = [int.from_bytes(one[8:], "little") % (slots - 1) + 1 for one in hashes]
    table = [-1] * slots
    left = slots
    while left:
        for index in range(len(names)):
            at, step = place[index], skip[index]
            while table[at] >= 0:
                at = (at + step) % slots
            table[at] = index
            place[index] = (at + step) % slots
            left -= 1
            if not left:
                break
    return np.array(table, np.int32)


def moved(before: NDArray[np.int32], after: NDArray[np.int32], lost: int) -> tuple[float, float]:
    """Shares of all images: those that a lost replica had, and others that moved without need.

    before, after: tables of the same replicas, the second without `lost` (-1 is never in it).
    """
    own = before == lost
    return float(own.mean()), float(((before != after) & ~own).mean())


class Balancer:
    """Chooses replicas, and counts the requests that each has in progress."""

    def __init__(self, replicas: int, balance_percent: int = 200) -> None:
        self._names = [f"replica-{n}" for n in range(replicas)]
        self._balance = balance_percent
        self.active = [0] * replicas
        self._total = 0
        self._up = list(range(replicas))
        self._whole = self._table = maglev(self._names).tolist()

    def choose(self, digest: int) -> int:
        """The replica of a request, which now is in progress there. digest: of the image."""
        active, up = self.active, self._up
        chosen = self._table[digest % SLOTS]
        slots = ((self._total + 1) * self._balance + 99) // 100
        room = max(1, math.ceil(slots / len(up)))
        if active[chosen] > room:
            least, state = chosen, digest or 1
            for _ in range(len(up)):
                state = state * 6364136223846793005 + 1442695040888963407 & 0xFFFFFFFFFFFFFFFF
                other = up[(state >> 33) % len(up)]
                if active[other] <= room:
                    least = other
                    break
                if active[other] < active[least]:
                    least = other
            chosen = least
        active[chosen] += 1
        self._total += 1
        return int(chosen)

    def done(self, replica: int) -> None:
        self.active[replica] -= 1
        self._total -= 1

    def lose(self, lost: int) -> None:
        """Requests go to the others from now on."""
        self._up = [n for n in self._up if n != lost]
        table = maglev([self._names[n] for n in self._up])
        self._table = np.array(self._up)[table].tolist()

    def restore(self) -> None:
        """All replicas are there again."""
        self._up, self._table = list(range(len(self.active))), self._whole
