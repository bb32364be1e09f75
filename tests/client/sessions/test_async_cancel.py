"""A cancelled task gets no mask, so its session gets no click, whenever the cancellation comes."""

import asyncio

import numpy as np
import pytest

from ois_client import AsyncClient
from support.disks import IMAGE, Disks, disks


class Slow:
    """`Disks` on an event loop. `when_answered` is called just before a click returns its reply."""

    def __init__(self):
        self.disks = Disks()
        self.when_answered = lambda: None

    async def info(self):
        return self.disks.info()

    async def encode(self, picture):
        return self.disks.encode(picture)

    async def click(self, request, picture=None):
        await asyncio.sleep(0)
        reply = self.disks.click(request, picture)
        self.when_answered()
        return reply

    async def close(self):
        self.disks.close()


def test_a_cancellation_between_the_reply_and_the_waiting_task_leaves_no_click():
    async def main():
        transport = Slow()
        async with AsyncClient(transport) as client:
            session = await client.open(IMAGE)
            await session.click(20, 20)
            before, reply = session.mask(), session.last_reply
            task = asyncio.create_task(session.click(40, 20))
            loop = asyncio.get_running_loop()
            # Runs after the reply has arrived and before the task continues.
            transport.when_answered = lambda: loop.call_soon(task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(transport.disks.requests) == 2  # both were answered
            assert len(session.clicks()) == 1
            np.testing.assert_array_equal(session.mask(), before)
            assert session.last_reply is reply
            transport.when_answered = lambda: None
            async with asyncio.timeout(5):  # the session is not locked
                await session.click(60, 20)
            np.testing.assert_array_equal(session.mask(), disks(session.clicks()))
            assert [click.x for click in session.clicks()] == [20, 60]

    asyncio.run(main())


def test_concurrent_clicks_build_on_each_other():
    async def main():
        async with AsyncClient(Slow()) as client:
            session = await client.open(IMAGE)
            await asyncio.gather(*(session.click(8 * n, 20) for n in range(8)))
            assert sorted(click.x for click in session.clicks()) == [8 * n for n in range(8)]
            np.testing.assert_array_equal(session.mask(), disks(session.clicks()))

    asyncio.run(main())
