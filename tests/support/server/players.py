"""Sessions with a twin: every click is also made in process, and the two must agree.

What a scenario does to the server may cost a click, with a typed error. It may never cost one
that was answered, nor change the session of one that was not.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ois_client import Client
from ois_client.contract.errors import InvalidInput, OISError

WIDTH, HEIGHT = 112, 84
CLICKS_PER_OBJECT = 12


def pixels(seed: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Noise: every seed is another image."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


class Player:
    """One person with one image. `client` is the server's, `twin` runs the engines in process."""

    def __init__(self, client: Client, twin: Client, image: NDArray[np.uint8], seed: int) -> None:
        self.session = client.open(image)
        self._twin = twin.open(image)
        self._dice = random.Random(seed)
        self.answered = 0
        self.errors: list[OISError] = []
        self.slowest_s = 0.0

    def click(self) -> bool:
        """One click somewhere; whether it was answered. Anything untyped is raised."""
        if len(self._twin.clicks()) >= CLICKS_PER_OBJECT:
            assert self.session.new_object() == self._twin.new_object()
        height, width = self.session.picture.height, self.session.picture.width
        x, y = self._dice.uniform(0, width - 1), self._dice.uniform(0, height - 1)
        positive = not self._twin.clicks() or self._dice.random() < 0.7
        started = time.monotonic()
        try:
            mask = self.session.click(x, y, positive=positive)
        except InvalidInput:
            raise  # never the server's trouble: the scenario sends good clicks
        except OISError as error:
            self.errors.append(error)
            self.check()
            return False
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        self.answered += 1
        np.testing.assert_array_equal(mask, self._twin.click(x, y, positive=positive))
        return True

    def check(self) -> None:
        """The session is what its answered clicks made it: no click lost, no mask changed."""
        assert self.session.objects == self._twin.objects
        for obj in self._twin.objects:
            assert self.session.clicks(obj) == self._twin.clicks(obj)
            np.testing.assert_array_equal(self.session.mask(obj), self._twin.mask(obj))
        assert sum(len(self.session.clicks(obj)) for obj in self._twin.objects) == self.answered


def play(players: Sequence[Player], clicks: int, *, threads: int = 8) -> None:
    """Every player makes `clicks` clicks, interleaved; all of them must be answered."""

    def work(player: Player) -> None:
        assert player.click(), player.errors[-1]

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(clicks):
            list(pool.map(work, players))
    for player in players:
        player.check()


def play_while(players: Sequence[Player], happening: Callable[[], None]) -> None:
    """Each player clicks in a thread of its own without a pause until `happening` returns."""
    over = threading.Event()

    def work(player: Player) -> None:
        while not over.is_set():
            player.click()

    with ThreadPoolExecutor(len(players)) as pool:
        running = [pool.submit(work, player) for player in players]
        try:
            happening()
        finally:
            over.set()
        for one in running:
            one.result()
    for player in players:
        player.check()
