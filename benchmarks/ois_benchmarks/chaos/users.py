"""People who click while a server is broken, and what they count.

Each user has a script: pictures, clicks on them, and the masks that the same engines gave in this
process before the run. A click that fails with a typed error is repeated until it is answered, as
a person would do.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ois_client import Client
from ois_client.contract.errors import (
    DeadlineExceeded,
    IncompatibleServer,
    InvalidInput,
    OISError,
    ServerOverloaded,
    ServerUnavailable,
)
from ois_client.contract.masks import pack_mask
from ois_client.sessions.session import Session
from ois_client.transports.settings import Timeouts

#: The errors that a broken server may cause. Any other error is a defect.
TEMPORARY = (ServerUnavailable, ServerOverloaded, DeadlineExceeded)
#: Further errors that damaged bytes may cause: what arrives is not what was sent.
DAMAGED = (InvalidInput, IncompatibleServer)
#: A call may end so much later than its deadline: the time to get the core back.
SLACK_S = 1.0
_PAUSE_S = 0.05  # after an error, before the click is repeated

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Script:
    """A picture and clicks on one object in it. masks: the packed mask after each click."""

    picture: bytes
    clicks: tuple[tuple[float, float, bool], ...]
    masks: tuple[bytes, ...]


def write_scripts(
    client: Client, pictures: Sequence[bytes], clicks: int, seed: int
) -> list[Script]:
    """A script per picture, with the masks that `client` answers. clicks: on each picture."""
    generator = np.random.default_rng(seed)
    scripts = []
    for data in pictures:
        session = client.open(data)
        picture = session.picture
        places, masks = [], []
        for number in range(clicks):
            x, y = generator.uniform(0.1, 0.9, 2) * (picture.width, picture.height)
            positive = number == 0 or bool(generator.uniform() < 0.7)
            places.append((float(x), float(y), positive))
            masks.append(pack_mask(session.click(*places[-1])))
        scripts.append(Script(data, tuple(places), tuple(masks)))
    return scripts


@dataclass
class Counts:
    """What one user saw.

    answered: clicks. failed: calls by the code of their typed error; each was repeated. lost:
    clicks that were never answered, or that their session forgot or invented. wrong: masks that
    differ from the script's. late: calls that ended after their deadline and `SLACK_S`. untyped:
    errors that a broken server must not cause, as text. slowest_s: the longest call.
    """

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    wrong: int = 0
    late: int = 0
    untyped: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


class User(threading.Thread):
    """Plays scripts in turns until `over`, then finishes the click it is at, until `give_up`."""

    def __init__(
        self,
        client: Client,
        scripts: Sequence[Script],
        timeouts: Timeouts,
        over: threading.Event,
        give_up: threading.Event,
        *,
        damaged: bool = False,
    ) -> None:
        """damaged: bytes may be damaged on their way."""
        super().__init__(name="chaos-user", daemon=True)
        self.counts = Counts()
        #: When the last answered click began, in seconds of `time.monotonic`.
        self.last_answered = 0.0
        self._client, self._scripts = client, list(scripts)
        self._over, self._give_up = over, give_up
        self._expected: tuple[type[OISError], ...] = (*TEMPORARY, *(DAMAGED if damaged else ()))
        # A click on an image that the server has lost is sent again with it, in the time of both.
        self._click_s = 2 * timeouts.click_s + timeouts.encode_s
        self._open_s = timeouts.encode_s

    def run(self) -> None:
        try:
            while not self._over.is_set():
                for script in self._scripts:
                    self._play(script)
        except Exception as error:  # the thread must not end unseen
            self._untyped(error)

    def _play(self, script: Script) -> None:
        session = self._until_answered(lambda: self._client.open(script.picture), self._open_s)
        if session is None:
            return
        for number, place in enumerate(script.clicks):
            if self._over.is_set():
                return
            mask = self._until_answered(partial(self._click, session, place), self._click_s)
            if mask is None:
                self.counts.lost += 1
                return
            self.counts.answered += 1
            self.counts.wrong += pack_mask(mask) != script.masks[number]
            self.counts.lost += len(session.clicks()) != number + 1

    def _click(self, session: Session, place: tuple[float, float, bool]) -> NDArray[np.uint8]:
        before, began = session.clicks(), time.monotonic()
        try:
            mask = session.click(*place)
        except OISError:
            self.counts.lost += session.clicks() != before
            raise
        self.last_answered = began
        return mask

    def _until_answered(self, call: Callable[[], Value], deadline_s: float) -> Value | None:
        """The answer, or None if the run was given up first."""
        while not self._give_up.is_set():
            began = time.monotonic()
            try:
                return call()
            except self._expected as error:
                self.counts.failed[error.code] += 1
            except Exception as error:
                self._untyped(error)
            finally:
                took = time.monotonic() - began
                self.counts.slowest_s = max(self.counts.slowest_s, took)
                self.counts.late += took > deadline_s + SLACK_S
            self._give_up.wait(_PAUSE_S)
        return None

    def _untyped(self, error: Exception) -> None:
        self.counts.untyped[f"{type(error).__name__}: {error}"[:300]] += 1
