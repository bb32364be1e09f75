"""A gRPC channel that has gone silent is replaced; one that is only slow is not cut off."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from ois_benchmarks.chaos.relay import Relay
from ois_client import AsyncClient, Client, DeadlineExceeded, Retries, Timeouts
from ois_client.transports.channels import Channels
from support.disks import IMAGE
from support.wire_server import WireServer

ONCE = Retries(attempts=1)


def test_after_a_silent_channel_the_next_click_is_answered() -> None:
    with WireServer() as server, Relay(urlsplit(server.urls["grpc"]).port or 0) as relay:
        url = f"grpc://127.0.0.1:{relay.port}"
        with Client(url, retries=ONCE, timeouts=Timeouts(click_s=2.0)) as client:
            session = client.open(IMAGE)
            assert session.click(20, 20).any()
            relay.silence()
            with pytest.raises(DeadlineExceeded):
                session.click(30, 30)
            assert session.click(30, 30).any()
            assert session.click(40, 40).any()
            assert len(session.clicks()) == 3


def test_after_a_silent_channel_the_next_async_click_is_answered() -> None:
    async def clicks(port: int, relay: Relay) -> None:
        timeouts = Timeouts(click_s=2.0)
        async with AsyncClient(f"grpc://127.0.0.1:{port}", retries=ONCE, timeouts=timeouts) as one:
            session = await one.open(IMAGE)
            assert (await session.click(20, 20)).any()
            relay.silence()
            with pytest.raises(DeadlineExceeded):
                await session.click(30, 30)
            assert (await session.click(30, 30)).any()
            assert (await session.click(40, 40)).any()

    with WireServer() as server, Relay(urlsplit(server.urls["grpc"]).port or 0) as relay:
        asyncio.run(clicks(relay.port, relay))


def test_a_slow_answer_on_the_old_channel_still_arrives() -> None:
    """A click has less patience than an encode: it gets a new channel, the encode its answer."""
    release = threading.Event()
    with (
        WireServer() as server,
        Client(server.urls["grpc"], retries=ONCE, timeouts=Timeouts(click_s=2)) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        session, usual = client.open(IMAGE), server.sleep
        server.sleep = lambda _active: release.wait(60)
        try:
            slow = pool.submit(client.open, IMAGE[::-1])
            with pytest.raises(DeadlineExceeded):
                session.click(30, 30)
            server.sleep = usual
            assert session.click(30, 30).any()
            assert not slow.done()
        finally:
            release.set()
        assert slow.result(timeout=60).click(20, 20).any()


class Opened:
    """Counts what is opened."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


def test_only_silence_replaces_a_channel_and_old_ones_close_after_their_calls() -> None:
    channels = Channels(Opened())
    begun = time.monotonic()
    with channels.line() as waiting, channels.line() as line:
        channels.heard(line)
        channels.silent(line, begun)  # another call was answered meanwhile
        with channels.line() as same:
            assert same is line is waiting
        channels.silent(line, time.monotonic())
        channels.silent(line, time.monotonic())  # two calls notice it: one new channel
        with channels.line() as new:
            assert new.wire == 2
        assert channels.left() == []
    assert channels.left() == [1]
    assert channels.left() == []
    assert channels.close() == [2]
    with channels.line() as last:
        channels.silent(last, time.monotonic())
    with channels.line() as still:
        assert still.wire == 2
