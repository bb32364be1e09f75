"""The sessions of a soak run, as tasks of one event loop.

A call that fails with a typed error is repeated until it is answered, as a person would do. So the
time of a click runs from when it was due until its mask is there, outages included.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.chaos.users import SLACK_S, TEMPORARY, Counts
from ois_benchmarks.soak.plan import SoakPlan, Visit
from ois_benchmarks.soak.scripts import SECOND_OBJECT_AT, Scripts, Twin, digest_of
from ois_client.contract.errors import OISError
from ois_client.sessions.async_client import AsyncClient
from ois_client.sessions.async_session import AsyncSession

_PAUSE_S = 0.2  # after an error, before the call is repeated
_IMAGES_AT_ONCE = 4  # made in threads

Value = TypeVar("Value")


@dataclass(slots=True)
class Window:
    """What happened since the last measurement.

    clicks_ms, opens_ms: of what was answered. stored: images whose features the server had when
    they were opened. recovered: clicks before which it encoded the image again.
    """

    clicks_ms: list[float] = field(default_factory=list)
    opens_ms: list[float] = field(default_factory=list)
    stored: int = 0
    recovered: int = 0
    failed: int = 0


class Visitors:
    """Plays visits. `counts` and `window` hold what was seen; take the latter with `turn`."""

    def __init__(
        self, clients: Sequence[AsyncClient], scripts: Scripts, twin: Twin, plan: SoakPlan
    ) -> None:
        """clients: visits take them in turns."""
        self._clients, self._scripts, self._twin, self._plan = clients, scripts, twin, plan
        self._making = asyncio.Semaphore(_IMAGES_AT_ONCE)
        # A click on an image that the server has lost is sent again with it, in the time of both.
        self._click_s = 2 * plan.timeouts.click_s + plan.timeouts.encode_s
        self._open_s = plan.timeouts.encode_s
        self.counts = Counts()
        self.window = Window()
        #: When the last answered click began, in seconds of `time.monotonic`.
        self.last_answered = 0.0

    def turn(self) -> Window:
        """The window so far. A new one begins."""
        done, self.window = self.window, Window()
        return done

    async def play(self, number: int, visit: Visit) -> None:
        """One visit. number: its place in the plan. Ends when every click is answered."""
        generator = np.random.default_rng([self._plan.seed, 4, number])
        async with self._making:
            data = await asyncio.to_thread(self._scripts.image, visit.image)
        client, due = self._clients[number % len(self._clients)], time.monotonic()
        session = await self._until_answered(partial(client.open, data), self._open_s)
        self.window.opens_ms.append(1e3 * (time.monotonic() - due))
        self.window.stored += bool(session.last_encode and session.last_encode.cached)
        expected = asyncio.ensure_future(self._twin.digests(visit.image))
        for count, place in enumerate(self._scripts.clicks(visit.image)[: visit.clicks]):
            if count == SECOND_OBJECT_AT:
                session.new_object()
            await asyncio.sleep(self._plan.think.draw(generator))
            due = time.monotonic()
            mask = await self._until_answered(partial(self._click, session, place), self._click_s)
            took_ms = 1e3 * (time.monotonic() - due)
            wrong = digest_of(mask) != (await expected)[count]
            # Nothing is awaited from here on, so that an interruption cannot split a click.
            self.window.clicks_ms.append(took_ms)
            self.counts.answered += 1
            self.counts.wrong += wrong
            self.counts.lost += _clicks_in(session) != count + 1
            reply = session.last_reply
            self.window.recovered += reply is not None and "encode" in reply.timings_ms

    async def _click(self, session: AsyncSession, place: tuple[float, float, bool]) -> NDArray[Any]:
        before, began = _clicks_in(session), time.monotonic()
        try:
            mask = await session.click(*place)
        except OISError:
            self.counts.lost += _clicks_in(session) != before
            raise
        self.last_answered = max(self.last_answered, began)
        return mask

    async def _until_answered(
        self, call: Callable[[], Awaitable[Value]], deadline_s: float
    ) -> Value:
        while True:
            began = time.monotonic()
            try:
                return await call()
            except TEMPORARY as error:
                self.counts.failed[error.code] += 1
            except Exception as error:  # a defect; the visit goes on
                self.counts.untyped[f"{type(error).__name__}: {error}"[:300]] += 1
            finally:
                took = time.monotonic() - began
                self.counts.slowest_s = max(self.counts.slowest_s, took)
                self.counts.late += took > deadline_s + SLACK_S
            self.window.failed += 1
            await asyncio.sleep(_PAUSE_S)

    def resume_from(self, clicks: dict[str, Any]) -> None:
        """Go on counting from the clicks of an interrupted run's document."""
        self.counts = Counts(
            clicks["answered"],
            Counter(clicks["failed"]),
            clicks["lost"],
            clicks["wrong"],
            clicks["late"],
            Counter(clicks["untyped"]),
            clicks["slowest_s"],
        )


def _clicks_in(session: AsyncSession) -> int:
    return sum(len(session.clicks(obj)) for obj in session.objects)
