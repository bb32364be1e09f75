"""A cancelled call ends at once where the transport can do that, and never changes the session."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ois_client import Cancelled, Session
from ois_client.contract.images import load_image
from ois_client.contract.transport import Cancellation
from support.disks import IMAGE, Disks, disks


def test_a_callback_is_called_once_before_or_after_the_cancellation():
    cancellation, called = Cancellation(), []
    cancellation.then(lambda: called.append("before"))
    cancellation.check()
    cancellation.cancel()
    cancellation.cancel()
    cancellation.then(lambda: called.append("after"))
    assert called == ["before", "after"]
    with pytest.raises(Cancelled, match="newer"):
        cancellation.check()


def test_a_sleep_ends_when_it_is_cancelled():
    cancellation = Cancellation()
    timer = threading.Timer(0.05, cancellation.cancel)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        cancellation.sleep(10)
    assert time.monotonic() - begin < 5
    timer.join()
    Cancellation().sleep(0.001)


class Slow(Disks):
    """A transport that cannot be interrupted, like engines in this process."""

    def __init__(self):
        super().__init__()
        self.entered, self.leave = threading.Event(), threading.Event()

    def click(self, request, picture=None):
        self.entered.set()
        self.leave.wait(10)
        return super().click(request, picture)


def test_the_reply_to_a_superseded_click_is_dropped():
    transport = Slow()
    session = Session(transport, load_image(IMAGE))
    with ThreadPoolExecutor(3) as pool:
        under_way = pool.submit(session.click, 20, 20)
        assert transport.entered.wait(5)
        waiting = pool.submit(session.click, 30, 20)
        time.sleep(0.05)
        latest = pool.submit(session.click, 40, 20, supersede=True)
        time.sleep(0.05)
        transport.leave.set()
        for call in (under_way, waiting):
            with pytest.raises(Cancelled):
                call.result(5)
        np.testing.assert_array_equal(latest.result(5), disks(session.clicks()))
    assert [click.x for click in session.clicks()] == [40]
    assert len(transport.requests) == 2  # the waiting click was never sent


def test_a_click_without_supersede_waits_its_turn():
    transport = Slow()
    session = Session(transport, load_image(IMAGE))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(session.click, 20, 20)
        assert transport.entered.wait(5)
        second = pool.submit(session.click, 30, 20)
        transport.leave.set()
        first.result(5), second.result(5)
    assert [click.x for click in session.clicks()] == [20, 30]
