"""A tool that sends all clicks every time gets the same mask as with clicks one by one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ois_client import (
    Click,
    ClickReply,
    ClickRequest,
    Client,
    IncompatibleServer,
    InvalidClick,
    InvalidInput,
    Picture,
    TooManyClicks,
)
from ois_client.sessions.replay import RecentSessions, replay
from ois_runtime.engines.local import LocalTransport, open_transport
from support.tiny_engines import write_engines

IMAGE = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
CLICKS = st.lists(
    st.builds(Click, st.integers(0, 119), st.integers(0, 89), st.booleans()), min_size=1, max_size=6
)


class Counting:
    """A local transport that counts clicks and can claim to run another model."""

    def __init__(self, inner: LocalTransport) -> None:
        self.clicks, self.model_sha256 = 0, ""
        self._inner = inner
        self.info, self.encode, self.stats = inner.info, inner.encode, inner.stats

    def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        self.clicks += 1
        return replace(self._inner.click(request, picture), model_sha256=self.model_sha256)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counting]:
    transport = Counting(open_transport(str(write_engines(tmp_path_factory.mktemp("engines")))))
    yield transport
    transport.close()


@pytest.fixture(scope="module")
def client(transport: Counting) -> Client:
    return Client(transport)


def one_after_another(client: Client, clicks: list[Click]) -> np.ndarray:
    session = client.open(IMAGE)
    for click in clicks:
        session.click(click.x, click.y, click.positive)
    return session.mask()


def test_one_more_click_costs_one_click(client: Client, transport: Counting) -> None:
    session = client.open(IMAGE)
    clicks = [Click(60, 45), Click(5, 5, False), Click(70, 50)]
    for count, cost in ((1, 1), (2, 1), (2, 0), (3, 1), (1, 0)):
        before = transport.clicks
        mask = replay(session, clicks[:count])
        assert transport.clicks - before == cost
        np.testing.assert_array_equal(mask, one_after_another(client, clicks[:count]))
    assert session.clicks() == tuple(clicks[:1])


@settings(deadline=None, derandomize=True, max_examples=40)
@given(requests=st.lists(CLICKS, min_size=1, max_size=4))
def test_the_mask_does_not_depend_on_earlier_requests(
    client: Client, requests: list[list[Click]]
) -> None:
    session = client.open(IMAGE)
    for clicks in requests:
        mask = replay(session, clicks)
        assert session.clicks() == tuple(clicks)
        np.testing.assert_array_equal(mask, one_after_another(client, clicks))


def test_a_wrong_click_changes_nothing(client: Client) -> None:
    session = client.open(IMAGE)
    before = replay(session, [Click(60, 45), Click(5, 5, False)])
    for clicks, kind in (
        ([Click(60, 45), Click(500, 5)], InvalidClick),
        ([Click(1, 1)] * 25, TooManyClicks),
        ([], InvalidInput),
    ):
        with pytest.raises(kind):
            replay(session, clicks)
        assert len(session.clicks()) == 2
        np.testing.assert_array_equal(session.mask(), before)


def test_each_object_has_its_own_clicks(client: Client) -> None:
    session = client.open(IMAGE)
    first, second = 0, session.new_object()
    replay(session, [Click(20, 20)], first)
    replay(session, [Click(90, 60), Click(1, 1, False)], second)
    replay(session, [Click(20, 20), Click(30, 30)], first)
    assert [len(session.clicks(obj)) for obj in (first, second)] == [2, 2]


def test_images_are_loaded_and_encoded_once_while_they_are_held(
    client: Client, transport: Counting
) -> None:
    loads: list[int] = []
    images = [IMAGE // (n + 2) for n in range(3)]

    def ask(recent: RecentSessions, number: int) -> None:
        def load() -> np.ndarray:
            loads.append(number)
            return images[number]

        with recent.session(str(number), load) as session:
            replay(session, [Click(60, 45)])

    recent, encoded = RecentSessions(client, most=2), transport.stats().misses
    for number in (0, 1, 0, 1, 2, 0, 0):
        ask(recent, number)
    assert loads == [0, 1, 2, 0]  # 2 replaced 0
    assert len(recent) == 2
    assert transport.stats().misses - encoded == 3  # the engines' store still had 0
    with pytest.raises(InvalidInput, match="at least 1"):
        RecentSessions(client, most=0)


def test_threads_that_open_an_image_together_open_it_once(client: Client) -> None:
    recent, loads, together = RecentSessions(client), [], threading.Barrier(8)

    def load() -> np.ndarray:
        loads.append(1)
        return IMAGE

    def work(n: int) -> bool:
        together.wait(timeout=30)
        clicks = [Click(60, 45), Click(n, n, False)]
        with recent.session("image", load) as session:
            return bool((replay(session, clicks) == one_after_another(client, clicks)).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(loads) == 1


def test_an_image_that_cannot_be_opened_is_tried_again(client: Client) -> None:
    recent, answers = RecentSessions(client), [b"no image", IMAGE]
    with pytest.raises(InvalidInput), recent.session("image", lambda: answers.pop(0)):
        pass
    with recent.session("image", lambda: answers.pop(0)) as session:
        assert replay(session, [Click(60, 45)]).any()


def test_after_a_change_of_model_the_image_is_opened_anew(
    client: Client, transport: Counting
) -> None:
    recent = RecentSessions(client)
    with recent.session("image", lambda: IMAGE) as session:
        replay(session, [Click(60, 45)])
    transport.model_sha256 = "f" * 64
    try:
        with (
            pytest.raises(IncompatibleServer, match="open the image again"),
            recent.session("image", lambda: IMAGE) as session,
        ):
            replay(session, [Click(60, 45), Click(61, 45)])
    finally:
        transport.model_sha256 = ""
    with recent.session("image", lambda: IMAGE) as again:
        assert again is not session
        assert replay(again, [Click(60, 45), Click(61, 45)]).any()


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ((0, 0), (0, 0)),
        ((0.5, 1.5), (0, 1)),
        ((120, 90), (119, 89)),
        ((60.25, 45.75), (59.75, 45.25)),
    ],
)
def test_a_canvas_is_half_a_pixel_off(
    at: tuple[float, float], expected: tuple[float, float]
) -> None:
    click = Click.on_canvas(*at, False, width=120, height=90)
    assert (click.x, click.y, click.positive) == (*expected, False)


@pytest.mark.parametrize("at", [(-0.1, 5), (5, 90.1), (float("nan"), 5), ("5", 5), (None, 5)])
def test_clicks_outside_the_canvas_are_refused(at: tuple) -> None:
    with pytest.raises(InvalidClick, match="canvas of a 120x90 image"):
        Click.on_canvas(*at, True, width=120, height=90)
