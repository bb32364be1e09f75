"""`Client.segment`: one answer for one image without a session, on any transport."""

import asyncio

import numpy as np
import pytest

from ois_client import AsyncClient, Click, Client
from ois_client.contract.errors import (
    IncompatibleServer,
    InvalidClick,
    InvalidImage,
    InvalidInput,
    TooManyClicks,
)
from support.disks import IMAGE, Disks
from support.wire_server import WireServer

CLICKS = [[Click(20, 20), Click(30, 20, positive=False)], [Click(60, 40)]]
GRID = (8, 10)


class Stateless(Disks):
    """`Disks` that can also answer without keeping the image's features."""

    def __init__(self):
        super().__init__()
        self.stateless = 0

    def segment(self, request, picture):
        self.stateless += 1
        return self.click(request, picture)


def segment(transport, *words, **options):
    """The reply of `Client.segment`, which the one of `AsyncClient` equals."""

    async def on_a_loop():
        async with AsyncClient(transport) as client:
            return await client.segment(*words, **options)

    with Client(transport) as client:
        reply = client.segment(*words, **options)
    other = asyncio.run(on_a_loop())
    np.testing.assert_array_equal(other.masks, reply.masks)
    return reply


@pytest.mark.parametrize("protocol", ["grpc", "http", "in process"])
def test_the_masks_are_those_of_a_session_that_sends_the_same_request(protocol):
    with WireServer() as server:
        url = server.urls.get(protocol) or server.disks
        reply = segment(url, IMAGE, CLICKS)
        with Client(url) as client:
            sent = client.open(IMAGE).send(server.disks.requests[0])
    np.testing.assert_array_equal(reply.masks, sent.masks)
    np.testing.assert_array_equal(reply.coverage, sent.coverage)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_is_one_request_to_a_server_without_the_ensemble_too(protocol):
    with WireServer() as server, Client(server.urls[protocol]) as client:
        server.calls.clear()
        client.segment(IMAGE, CLICKS)
        (call,) = server.calls
    assert (call.objects, call.picture.width, call.has_previous.any()) == (2, 80, False)


def test_a_transport_that_can_is_asked_to_keep_nothing():
    transport = Stateless()
    segment(transport, IMAGE, CLICKS)
    assert transport.stateless == 2  # by the client and by the one on an event loop


def test_clicks_on_one_object_need_no_second_list():
    reply = segment(Disks(), IMAGE, CLICKS[0])
    np.testing.assert_array_equal(reply.masks, segment(Disks(), IMAGE, CLICKS[:1]).masks)
    assert reply.masks.shape == (1, 60, 80)


def test_a_round_continues_from_the_coverage_of_a_reply_or_of_a_session():
    transport = Disks()
    with Client(transport) as client:
        first = client.segment(IMAGE, CLICKS)
        client.segment(IMAGE, CLICKS, coverage=first.coverage)
        session = client.open(IMAGE)
        session.click(20, 20)
        client.segment(IMAGE, CLICKS, coverage=[None, session.coverage()])
    both, one = transport.requests[1], transport.requests[-1]
    assert (both.has_previous.tolist(), one.has_previous.tolist()) == ([True] * 2, [False, True])
    np.testing.assert_array_equal(both.coverage, first.coverage)
    np.testing.assert_array_equal(one.coverage, [np.zeros(GRID), session.coverage()])


@pytest.mark.parametrize(
    ("image", "clicks", "coverage", "kind", "message"),
    [
        (IMAGE, [[Click(80, 1)]], None, InvalidClick, "outside the 80x60 image"),
        (IMAGE, [[Click(1, 1)] * 25], None, TooManyClicks, "25 positive clicks"),
        (IMAGE, [], None, InvalidInput, "no object"),
        (IMAGE, [[]], None, InvalidInput, "object 0 has no click"),
        (IMAGE, [Click(1, 1), [Click(2, 2)]], None, InvalidInput, "clicks and lists of clicks"),
        (b"GIF", CLICKS, None, InvalidImage, "image"),
        (IMAGE, CLICKS, [None], InvalidInput, "coverage of 1 masks for 2 objects"),
        (IMAGE, CLICKS, [None, np.zeros((3, 3), np.uint8)], InvalidInput, r"expected \(8, 10\)"),
        (IMAGE, CLICKS, np.zeros((2, *GRID)), InvalidInput, "float64"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(image, clicks, coverage, kind, message):
    transport = Disks()
    with Client(transport) as client, pytest.raises(kind, match=message):
        client.segment(image, clicks, coverage=coverage)
    assert not transport.requests


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_masks_of_another_model_are_not_refined(protocol):
    with WireServer() as server, Client(server.urls[protocol]) as client:
        coverage = client.segment(IMAGE, CLICKS).coverage
        server.model_sha256 = "bb" * 32  # the server was restarted with another model
        with pytest.raises(IncompatibleServer, match="another model"):
            client.segment(IMAGE, CLICKS, coverage=coverage)
        begun_again = client.segment(IMAGE, CLICKS)
        assert begun_again.model_sha256 == server.model_sha256
        client.segment(IMAGE, CLICKS, coverage=begun_again.coverage)
