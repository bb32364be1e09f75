"""Simulated users. Each makes every click on the server and in process, and compares the masks.

A fault of the server may make a click fail with a typed error. It must not lose an answered click,
and a failed click must leave the session unchanged.
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
    """An image of noise. Every seed gives a different one."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


class Player:
    """A user with one image. client: connected to the server; twin: runs the engines in process."""

    def __init__(self, client: Client, twin: Client, image: NDArray[np.uint8], seed: int) -> None:
        self.session = client.open(image)
        self._twin = twin.open(image)
        self._dice = random.Random(seed)
        self.answered = 0
        self.errors: list[OISError] = []
        self.slowest_s = 0.0

    def click(self) -> bool:
        """Click at a random point. Returns whether it was answered; untyped errors are raised."""
        if len(self._twin.clicks()) >= CLICKS_PER_OBJECT:
            assert self.session.new_object() == self._twin.new_object()
        height, width = self.session.picture.height, self.session.picture.width
        x, y = self._dice.uniform(0, width - 1), self._dice.uniform(0, height - 1)
        positive = not self._twin.clicks() or self._dice.random() < 0.7
        started = time.monotonic()
        try:
            mask = self.session.click(x, y, positive=positive)
        except InvalidInput:
            raise  # a defect of the test or the server: these clicks are valid
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
        """Assert that the session has exactly the answered clicks, with their masks."""
        assert self.session.objects == self._twin.objects
        for obj in self._twin.objects:
            assert self.session.clicks(obj) == self._twin.clicks(obj)
            np.testing.assert_array_equal(self.session.mask(obj), self._twin.mask(obj))
        assert sum(len(self.session.clicks(obj)) for obj in self._twin.objects) == self.answered


def play(players: Sequence[Player], clicks: int, *, threads: int = 8) -> None:
    """Every player makes `clicks` clicks, in turns. All must be answered."""

    def work(player: Player) -> None:
        assert player.click(), player.errors[-1]

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(clicks):
            list(pool.map(work, players))
    for player in players:
        player.check()


def play_while(players: Sequence[Player], action: Callable[[], None]) -> None:
    """Each player clicks without pause in its own thread until `action` returns."""
    over = threading.Event()

    def work(player: Player) -> None:
        while not over.is_set():
            player.click()

    with ThreadPoolExecutor(len(players)) as pool:
        running = [pool.submit(work, player) for player in players]
        try:
            action()
        finally:
            over.set()
        for one in running:
            one.result()
    for player in players:
        player.check()
