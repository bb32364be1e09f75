"""Sessions on the real server: every mask equals that of the same engines in process."""

from __future__ import annotations

import contextlib
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ois_client import Client, MaskFormat, OISPredictor
from ois_client.contract.clicks import Click
from ois_client.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    ServerUnavailable,
)
from ois_client.transports import grpc, http
from ois_client.transports.exchange import Infer
from ois_client.transports.settings import Retries, Timeouts
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.local import LocalTransport
from support.server.calls import picture, statistics

#: The clicks that each session makes: two positive, one negative.
CLICKS = (Click(40, 30), Click(60.5, 40.25), Click(3, 3, False))
PROTOCOLS = ("grpc", "http")


def url_of(server: EmbeddedServer, protocol: str) -> str:
    url: str = getattr(server, f"{protocol}_url")
    return url


def image(seed: int) -> np.ndarray:
    return picture(50_000 + seed).pixels()  # other files use other images on the same server


def expected(local: LocalTransport, seed: int) -> list[np.ndarray]:
    """The mask after each of CLICKS, from the engines in this process."""
    session = Client(local).open(image(seed))
    return [session.click(one.x, one.y, one.positive) for one in CLICKS]


@pytest.mark.parametrize("form", [MaskFormat.PACKED, MaskFormat.PNG, MaskFormat.COCO_RLE])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_session_equals_one_in_process(
    server: EmbeddedServer, local: LocalTransport, protocol: str, form: MaskFormat
) -> None:
    wants = {"want_depth": True, "want_logits": True, "want_order": True}
    near = Client(local).open(image(1))
    with Client(url_of(server, protocol), mask_format=form) as client:
        session = client.open(image(1))
        for one in CLICKS:
            np.testing.assert_array_equal(
                session.click(one.x, one.y, one.positive, **wants),
                near.click(one.x, one.y, one.positive, **wants),
            )
            for name in ("coverage", "depth", "logits", "order"):
                ours, theirs = getattr(session.last_reply, name), getattr(near.last_reply, name)
                np.testing.assert_array_equal(ours, theirs)
        assert session.last_reply is not None
        assert session.last_reply.order is not None
        # One map for the positive clicks, one for the negative click.
        assert len(session.last_reply.order) == 2
        other = session.new_object()
        near.new_object()
        both = {0: Click(10, 10), other: Click(90, 70)}
        for obj, mask in near.click_many(both).items():
            np.testing.assert_array_equal(session.click_many(both)[obj], mask)
            session.undo(0), session.undo(1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_window_is_an_image_like_any_other(
    server: EmbeddedServer, local: LocalTransport, protocol: str
) -> None:
    large = picture(50_100 + PROTOCOLS.index(protocol), 1200, 900).pixels()
    near = Client(local).open(large, zoom=True)
    with Client(url_of(server, protocol)) as client:
        session = client.open(large, zoom=True)
        encoded = statistics(server)["ois_encoder"]
        windows = set()
        for n in range(6):  # the negative ones make the mask smaller
            click = 600, 450 + n, n == 0
            np.testing.assert_array_equal(session.click(*click), near.click(*click))
            assert session.window() == near.window()
            windows.add(session.window())
        windows -= {None}
        assert windows
        assert statistics(server)["ois_encoder"] == encoded + len(windows)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_image_the_server_does_not_have_is_sent_with_the_click(
    server: EmbeddedServer, local: LocalTransport, protocol: str
) -> None:
    with Client(url_of(server, protocol)) as client:
        session = client.open(image(200 + PROTOCOLS.index(protocol)), encode=False)
        encoded = statistics(server)["ois_encoder"]
        mask = session.click(40, 30)
        assert session.last_reply is not None
        assert {"encode", "decode"} <= session.last_reply.timings_ms.keys()
        session.click(30, 40)
        assert "encode" not in session.last_reply.timings_ms
        assert statistics(server)["ois_encoder"] == encoded + 1
    near = Client(local).open(image(200 + PROTOCOLS.index(protocol)))
    np.testing.assert_array_equal(mask, near.click(40, 30))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_predictor_works_on_a_server(
    server: EmbeddedServer, local: LocalTransport, protocol: str
) -> None:
    arguments = np.array([[40, 30], [3, 3]]), np.array([1, 0])
    near = OISPredictor(Client(local))
    near.set_image(image(2))
    with Client(url_of(server, protocol)) as client:
        far = OISPredictor(client)
        far.set_image(image(2))
        for ours, theirs in zip(far.predict(*arguments), near.predict(*arguments), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_too_many_objects_and_a_missed_deadline_are_typed_errors(
    server: EmbeddedServer, protocol: str
) -> None:
    with Client(url_of(server, protocol)) as client:
        session = client.open(image(3))
        clicks = {0: Click(1, 1)} | {session.new_object(): Click(1, 1) for _ in range(80)}
        with pytest.raises(InvalidInput, match="81 objects"):
            session.click_many(clicks)
        assert not session.masks[5].any()
        with pytest.raises(DeadlineExceeded):
            Client(
                url_of(server, protocol), timeouts=Timeouts(click_s=1e-9), retries=Retries()
            ).open(image(3)).click(4, 4)
        assert session.click(4, 4, obj=0).any()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_where_shared_memory_is_refused_the_image_goes_over_the_network(
    server: EmbeddedServer, protocol: str
) -> None:
    with Client(url_of(server, protocol), shared_memory=True) as client:
        assert client.open(image(300 + PROTOCOLS.index(protocol))).click(40, 30).any()


@pytest.mark.parametrize("token", [None, "s3cret"])
def test_images_travel_in_shared_memory_where_the_server_allows_it(
    engines: Path, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ServerOptions(cache_bytes=16 * 2**20, token=token, client_shm=True)
    pixels, sent = image(310), []
    with EmbeddedServer(engines, options) as server, Client(f"local:{engines}") as twin:
        # Patched after the start, because the server's own probe uses the same function.
        for messages in (grpc, http):
            make = messages.infer_request

            def noted(infer: Infer, *more: object, make: Any = make) -> object:
                if "IMAGE" in infer.message.tensors:
                    sent.append("IMAGE" in infer.shared)
                return make(infer, *more)

            monkeypatch.setattr(messages, "infer_request", noted)
        expected = twin.open(pixels).click(40, 30)
        for protocol in PROTOCOLS:
            with Client(url_of(server, protocol), token=token, shared_memory=True) as client:
                np.testing.assert_array_equal(client.open(pixels).click(40, 30), expected)
        assert sent == [True, True]  # both in shared memory, neither again over the network
        if token is not None:
            register = f"{server.http_url}/v2/systemsharedmemory/region/a/register"
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(register, data=b"{}", timeout=60)
            assert refused.value.code == 403
            refused.value.close()


def test_of_clicks_that_supersede_each_other_only_some_are_answered(server: EmbeddedServer) -> None:
    with Client(server.grpc_url) as client, ThreadPoolExecutor(8) as pool:
        session = client.open(image(4))
        begin = threading.Barrier(8)

        def click(x: int) -> bool:
            begin.wait()
            try:
                session.click(x, 30, supersede=True)
            except Cancelled:
                return False
            return True

        answered = sum(pool.map(click, range(10, 90, 10)))
        assert 1 <= answered == len(session.clicks())
        last = session.clicks()
        session.undo()
        again = session.click(last[-1].x, 30)
        np.testing.assert_array_equal(again, session.mask())


def test_a_session_outlives_its_server(engines, local: LocalTransport) -> None:
    """The server ends and comes back without features; the session continues with its clicks."""
    options = ServerOptions(cache_bytes=16 * 2**20)
    with EmbeddedServer(engines, options) as server:
        client = Client(server.grpc_url, retries=Retries(attempts=2, backoff_s=0.05))
        session = client.open(image(6))
        masks = [session.click(one.x, one.y, one.positive) for one in CLICKS[:2]]
        again = ServerOptions(
            cache_bytes=16 * 2**20, grpc_port=server.ports.grpc, http_port=server.ports.http
        )
    with pytest.raises(ServerUnavailable, match="ois serve"):
        session.click(3, 3, positive=False)
    np.testing.assert_array_equal(session.mask(), masks[-1])
    with EmbeddedServer(engines, again):
        for _ in range(50):
            with contextlib.suppress(ServerUnavailable):
                masks.append(session.click(3, 3, positive=False))
                break
        client.close()
    np.testing.assert_array_equal(masks, expected(local, 6))
    assert session.clicks() == CLICKS
