"""The users of a load run, as tasks of one event loop.

A user opens a picture, clicks on one object in it, and continues with the next picture. Pauses and
click positions come from the seed, so two runs of one plan make the same requests.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ois_benchmarks.load.meter import Meter
from ois_benchmarks.load.pacing import LoadPlan, Pace, Step, ThinkTime
from ois_benchmarks.load.pictures import LoadPicture
from ois_client.sessions.async_client import AsyncClient
from ois_client.sessions.async_session import AsyncSession

#: The step ends if more clicks are in flight, because the server would never catch up.
MAX_IN_FLIGHT = 512
#: Sessions that are opened before arrivals begin. More are opened when all are busy.
_SESSIONS = 32


async def perform(
    step: Step, plan: LoadPlan, client: AsyncClient, pictures: Sequence[LoadPicture], meter: Meter
) -> None:
    """Run one step until all its clicks have ended.

    pictures: new to the server for the cold step, known to it for the others.
    """
    if step.pace is Pace.ARRIVALS:
        await _arrivals(step, plan, client, pictures, meter)
        return
    if step.pace in (Pace.COLD, Pace.WARM):
        meter.start()
        await _user(client, pictures, 1, _generator(plan, step), meter)
        return
    think = plan.think if step.pace is Pace.HUMAN else None
    meter.start()
    async with asyncio.TaskGroup() as users:
        for number in range(int(step.level)):
            own = itertools.islice(itertools.cycle(pictures), number % len(pictures), None)
            generator = _generator(plan, step, number)
            users.create_task(_user(client, own, plan.clicks_an_image, generator, meter, think))


async def _user(
    client: AsyncClient,
    pictures: Iterable[LoadPicture],
    clicks: int,
    generator: np.random.Generator,
    meter: Meter,
    think: ThinkTime | None = None,
) -> None:
    """One user, until the pictures or the time of the step run out. think: None for no pause."""

    def pause() -> float:
        return think.draw(generator) if think else 0.0

    due = pause() * generator.uniform()  # users do not all start at once
    for picture in pictures:
        if not await _reached(due, meter):
            return
        session = await meter.open(client, picture.data, due)
        if session is not None:
            for place in _places(picture, clicks, generator):
                due = meter.now + pause()
                if not await _reached(due, meter):
                    return
                meter.due += 1
                await meter.click(session, place, due)
        due = meter.now + pause()


async def _arrivals(
    step: Step, plan: LoadPlan, client: AsyncClient, pictures: Sequence[LoadPicture], meter: Meter
) -> None:
    """Clicks at times drawn beforehand, each on a session without another click in flight."""
    generator = _generator(plan, step)
    turn = itertools.cycle(pictures)

    async def new_session() -> tuple[AsyncSession, LoadPicture]:
        picture = next(turn)
        return await client.open(picture.data, encode=False), picture

    free = deque([await new_session() for _ in range(_SESSIONS)])

    async def click(due: float, where: float, height: float) -> None:
        session, picture = free.popleft() if free else await new_session()
        if len(session.clicks()) >= plan.clicks_an_image:
            session.reset()
        await meter.click(session, (where * picture.width, height * picture.height), due)
        free.append((session, picture))

    # Given the number of events, the times of a Poisson process are uniform. This keeps its bursts
    # and gaps, and the rate is exactly that of the step.
    count = max(1, round(step.level * meter.seconds))
    times = np.sort(generator.uniform(0, meter.seconds, count))
    places = generator.uniform(0.1, 0.9, (count, 2))
    meter.start()
    async with asyncio.TaskGroup() as under_way:
        for due, place in zip(times.tolist(), places, strict=True):
            if not await _reached(due, meter):
                return
            if meter.in_flight >= MAX_IN_FLIGHT:
                meter.stopped = f"{MAX_IN_FLIGHT} clicks were waiting"
                return
            meter.due += 1
            under_way.create_task(click(due, *place))


async def _reached(due: float, meter: Meter) -> bool:
    """Wait until `due`; False if the step ends before."""
    if not meter.goes_on(due):
        return False
    await asyncio.sleep(max(0.0, due - meter.now))
    return meter.goes_on(due)


def _places(
    picture: LoadPicture, count: int, generator: np.random.Generator
) -> Iterator[tuple[float, float]]:
    """Random (x, y) in pixels of the picture, away from its border."""
    for x, y in generator.uniform(0.1, 0.9, (count, 2)):
        yield x * picture.width, y * picture.height


def _generator(plan: LoadPlan, step: Step, user: int = 0) -> np.random.Generator:
    return np.random.default_rng(
        [plan.seed, list(Pace).index(step.pace), round(1000 * step.level), user]
    )
