"""Progressive answers: the coarse mask comes first or not at all, and never changes the session."""

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest

from ois_client import AsyncClient
from ois_client.contract.clicks import Click
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import (
    Cancelled,
    IncompatibleServer,
    InvalidInput,
    ServerUnavailable,
    UnknownImage,
)
from ois_client.contract.images import load_image
from ois_client.contract.transport import Answer, ClickReply
from ois_client.sessions.session import Session
from support.disks import IMAGE, Disks, disks

WITHIN_S = 5
ROUGH = np.ones((60, 80), dtype=np.uint8)


class Progressive(Disks):
    """Its coarse masks are full of ones. Full answers wait for `full`, coarse ones for `coarse`."""

    def __init__(self):
        super().__init__()
        self.full, self.coarse = threading.Event(), threading.Event()
        self.full.set()
        self.coarse.set()
        self.coarse_error = None
        self.coarse_requests = []
        self.asked = threading.Event()

    def info(self):
        return replace(super().info(), coarse_answers=True)

    def click(self, request, picture=None):
        if request.answer is Answer.FULL:
            assert self.full.wait(WITHIN_S)
            return super().click(request, picture)
        self.coarse_requests.append(request)
        self.asked.set()
        assert self.coarse.wait(WITHIN_S)
        if self.coarse_error is not None:
            raise self.coarse_error
        count = len(request.points)
        nothing = np.zeros((count, 0, 0), dtype=np.uint8)
        masks = np.stack([ROUGH] * count)
        return ClickReply(masks, nothing, {"decode": 1.0}, answer=Answer.COARSE)


@pytest.fixture
def server():
    return Progressive()


@pytest.fixture
def session(server):
    session = Session(server, load_image(IMAGE))
    session.coarse_after_s = 0
    return session


def test_the_coarse_mask_comes_before_the_full_one_and_is_not_kept(server, session):
    server.full.clear()
    seen = []

    def show(mask):
        seen.append((mask, session.mask().any(), session.clicks()))
        server.full.set()

    mask = session.click(20, 20, want_depth=True, on_coarse=show)
    np.testing.assert_array_equal(mask, disks([Click(20, 20)]))
    [(rough, any_mask, clicks)] = seen
    np.testing.assert_array_equal(rough, ROUGH)
    assert (any_mask, clicks) == (False, ())
    np.testing.assert_array_equal(session.mask(), mask)
    assert session.last_reply.answer is Answer.FULL
    [request], [full] = server.coarse_requests, server.requests
    assert not request.want_depth
    assert full.want_depth
    np.testing.assert_array_equal(request.points, full.points)
    session.click(60, 20)  # no callback, no request
    previous = coverage_of_mask(mask, session.geometry)
    np.testing.assert_array_equal(server.requests[-1].coverage[0], previous)
    assert len(server.coarse_requests) == 1


def test_several_objects_get_their_coarse_masks_by_id(server, session):
    server.full.clear()
    second = session.new_object()
    seen = []

    def show(masks):
        seen.append(masks)
        server.full.set()

    clicks = {0: Click(20, 20), second: Click(60, 40)}
    session.click_many(clicks, on_coarse=show)
    assert [*seen[0]] == [0, second]


def test_a_late_coarse_mask_is_dropped(server, session):
    server.coarse.clear()
    seen = []
    assert session.click(20, 20, on_coarse=seen.append).any()
    server.coarse.set()
    for thread in threading.enumerate():
        if thread.name == "ois-coarse":
            thread.join(WITHIN_S)
    assert seen == []


@pytest.mark.parametrize(
    "error", [ServerUnavailable("gone"), InvalidInput("unknown parameter"), UnknownImage("lost")]
)
def test_an_error_of_the_coarse_request_loses_nothing(server, session, error):
    server.coarse_error = error
    seen = []
    assert session.click(20, 20, on_coarse=seen.append).any()
    assert (seen, len(session.clicks())) == ([], 1)


def test_a_coarse_mask_of_another_model_or_size_is_dropped(server, session):
    plain = server.click

    def other(request, picture=None):
        if request.answer is Answer.COARSE:
            return replace(plain(request), model_sha256="f" * 64)
        assert server.asked.wait(WITHIN_S)
        return plain(request, picture)

    server.click = other
    seen = []
    assert session.click(20, 20, on_coarse=seen.append).any()
    assert seen == []


def test_a_failed_click_shows_nothing_more_and_changes_nothing(server, session):
    server.fail_next = [ServerUnavailable("gone")]
    server.coarse.clear()
    seen = []
    with pytest.raises(ServerUnavailable):
        session.click(20, 20, on_coarse=seen.append)
    server.coarse.set()
    assert (seen, session.clicks()) == ([], ())


def test_the_callback_may_use_the_session(server, session):
    session.click(40, 40)
    server.full.clear()

    def undo(_):
        server.full.set()
        session.undo()  # waits for the click

    session.click(20, 20, on_coarse=undo)
    assert session.clicks() == (Click(40, 40),)


def test_a_coarse_reply_is_never_committed(server, session):
    plain = server.click
    server.click = lambda request, _=None: plain(replace(request, answer=Answer.COARSE))
    with pytest.raises(IncompatibleServer, match="coverage"):
        session.click(20, 20)
    assert session.clicks() == ()


def test_a_click_that_is_answered_soon_requests_no_coarse_mask(server):
    session = Session(server, load_image(IMAGE))
    assert session.coarse_after_s == 0.05
    session.coarse_after_s = 60
    before = threading.active_count()
    assert session.click(20, 20, on_coarse=lambda _: 1 / 0).any()
    for thread in threading.enumerate():
        if thread.name == "ois-coarse":
            thread.join(WITHIN_S)
    assert threading.active_count() <= before
    assert server.coarse_requests == []


def test_a_server_without_coarse_answers_gets_no_request_for_one():
    server = Disks()
    session = Session(server, load_image(IMAGE))
    assert session.click(20, 20, on_coarse=lambda _: 1 / 0).any()
    assert len(server.requests) == 1


def test_a_superseded_click_shows_nothing_more(server, session):
    server.full.clear()
    server.coarse.clear()
    seen, errors = [], []

    def first():
        try:
            session.click(20, 20, on_coarse=seen.append)
        except Cancelled as error:
            errors.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert server.asked.wait(WITHIN_S)
    second = threading.Thread(target=lambda: session.click(60, 20, supersede=True))
    second.start()
    while len(session._calls) < 2:
        pass
    server.full.set()
    thread.join(WITHIN_S)
    second.join(WITHIN_S)
    server.coarse.set()
    assert (len(errors), seen) == (1, [])
    assert session.clicks() == (Click(60, 20),)


class Loop:
    """`Progressive` on an event loop: its events are asyncio's."""

    def __init__(self):
        self.inner = Progressive()
        self.full, self.coarse = asyncio.Event(), asyncio.Event()
        self.order = []

    async def info(self):
        return self.inner.info()

    async def encode(self, picture):
        return self.inner.encode(picture)

    async def click(self, request, picture=None):
        self.order.append(request.answer)
        await (self.full if request.answer is Answer.FULL else self.coarse).wait()
        return self.inner.click(request, picture)

    async def close(self):
        pass


def test_on_an_event_loop():
    async def main():
        transport = Loop()
        async with AsyncClient(transport) as client:
            session = await client.open(IMAGE)
            session.coarse_after_s = 0
            seen = []

            def show(mask):
                seen.append(mask)
                transport.full.set()

            transport.coarse.set()
            mask = await session.click(20, 20, on_coarse=show)
            assert transport.order == [Answer.FULL, Answer.COARSE]
            assert len(seen) == 1
            np.testing.assert_array_equal(mask, disks([Click(20, 20)]))
            transport.coarse.clear()
            await session.click_many({0: Click(60, 20)}, on_coarse=seen.append)
            transport.coarse.set()
            transport.inner.coarse_error = ServerUnavailable("gone")
            await session.click(60, 50, on_coarse=seen.append)
            assert len(seen) == 1
            assert len(session.clicks()) == 3
            transport.full.clear()
            transport.coarse.clear()
            task = asyncio.create_task(session.click(10, 50, on_coarse=seen.append))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            transport.coarse.set()
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == 1
            assert (len(seen), len(session.clicks())) == (1, 3)

    asyncio.run(main())
