"""A client and a server: the same behaviour over gRPC and HTTP, blocking and with asyncio."""

import asyncio
import contextlib
import dataclasses
import inspect
import json
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from ois_client import (
    TLS,
    AccessDenied,
    AsyncClient,
    AsyncSession,
    Cancelled,
    Client,
    DeadlineExceeded,
    IncompatibleServer,
    InvalidImage,
    InvalidInput,
    MaskFormat,
    OISError,
    Retries,
    ServerOverloaded,
    ServerUnavailable,
    Session,
    Timeouts,
    UnknownImage,
)
from support.disks import IMAGE, disks
from support.wire_server import UNAVAILABLE, WireServer

ONCE = Retries(attempts=1)
QUICK = Retries(attempts=3, backoff_s=0.01)


class OnLoop:
    """Wraps an async object: its methods block, and run on an event loop in another thread."""

    def __init__(self, loop, target):
        self._loop = loop
        self._target = target

    def __getattr__(self, name):
        value = getattr(self._target, name)
        if not inspect.ismethod(value):
            return value

        def call(*args, **options):
            async def on_loop():
                result = value(*args, **options)
                return await result if inspect.isawaitable(result) else result

            result = asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(30)
            return OnLoop(self._loop, result) if isinstance(result, AsyncSession) else result

        return call

    def __enter__(self):
        self.connect()
        return self

    def __exit__(self, *_):
        self.close()


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(params=["blocking", "async"])
def make(request, loop):
    """A function that returns a client with blocking calls, whatever its class."""
    if request.param == "blocking":
        return Client

    def make(url, **options):
        async def on_loop():
            return AsyncClient(url, **options)

        client = asyncio.run_coroutine_threadsafe(on_loop(), loop).result()
        return OnLoop(loop, client)

    return make


@pytest.fixture(params=["grpc", "http"])
def protocol(request):
    return request.param


@pytest.fixture
def server():
    with WireServer() as server:
        yield server


@pytest.fixture
def url(server, protocol):
    return server.urls[protocol]


def connected(client):
    """Connect an async client; a blocking one already is."""
    if isinstance(client, OnLoop):
        client.connect()
    return client


# -- clicks ---------------------------------------------------------------------------------------


def test_clicks_encodes_and_extras_arrive(server, make, url):
    with make(url) as client:
        assert client.info.network == "disks"
        session = client.open(IMAGE)
        assert not session.last_encode.cached
        np.testing.assert_array_equal(session.click(20, 20), disks(session.clicks()))
        session.click(30, 30, positive=False, want_depth=True, want_logits=True)
        np.testing.assert_array_equal(session.mask(), disks(session.clicks()))
        network = session.geometry.network_height, session.geometry.network_width
        assert session.last_reply.depth.shape == network
        assert session.last_reply.logits.shape == (1, *network)
        assert session.last_reply.order is None
        second = session.new_object()
        masks = session.click_many({0: session.clicks(0)[0], second: session.clicks(0)[1]})
        assert sorted(masks) == [0, 1]
        assert server.calls[-1].session == session.id
        assert server.disks.encodes == 1
        assert client.open(IMAGE).last_encode.cached
        np.testing.assert_array_equal(session.undo(0), disks(session.clicks(0)))


def test_every_request_about_an_image_names_it_for_load_balancers(server, make, url):
    with make(url) as client:
        session = client.open(IMAGE)
        session.click(20, 20)
    named = [headers.get("ois-image-digest") for headers in server.headers]
    assert named[-2:] == [session.picture.digest] * 2
    assert set(named[:-2]) == {None}


def test_http_answers_are_not_compressed(server, make):
    """Triton would compress every mask, which takes longer than the click."""
    with make(server.urls["http"]) as client:
        client.open(IMAGE).click(20, 20)
    assert {headers["accept-encoding"] for headers in server.headers} == {"identity"}


@pytest.mark.parametrize("form", MaskFormat)
def test_masks_travel_in_any_format(server, make, url, form):
    with make(url, mask_format=form) as client:
        session = client.open(IMAGE)
        np.testing.assert_array_equal(session.click(20, 20), disks(session.clicks()))
    assert server.calls[-1].mask_format is form


def test_a_lost_image_is_sent_once_more(server, make, url):
    with make(url) as client:
        session = client.open(IMAGE)
        session.click(20, 20)
        server.disks.images.clear()
        session.click(30, 20)
        np.testing.assert_array_equal(session.mask(), disks(session.clicks()))
        assert server.disks.encodes == 2
        assert len(session.clicks()) == 2


def test_large_images_and_many_objects_pass(make, url):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    with make(url) as client:
        session = client.open(noise)
        clicks = {0: (5, 5)} | {session.new_object(): (5, 9) for _ in range(7)}
        session.click(1990, 1490, obj=0)
        assert session.mask(0)[1490, 1990] == 1
        assert len(clicks) == 8


# -- tokens ---------------------------------------------------------------------------------------


def test_a_server_that_requires_a_token_accepts_only_that_token(server, make, url):
    server.token = "s3cret"
    with make(url, token="s3cret") as client:
        assert client.open(IMAGE).click(20, 20).any()
    for wrong in ({}, {"token": "other"}):
        with pytest.raises(AccessDenied, match="token="), make(url, retries=QUICK, **wrong):
            pass
    assert "s3cret" not in repr(client)


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (UNAVAILABLE, ServerOverloaded),
        ((grpc.StatusCode.UNAVAILABLE, 502, "Bad Gateway"), ServerUnavailable),
        ((grpc.StatusCode.INTERNAL, 500, "Stub process 'x' is not healthy."), ServerUnavailable),
        ((grpc.StatusCode.UNAVAILABLE, 503, "OIS:SERVER_OVERLOADED: 9 wait"), ServerOverloaded),
    ],
)
def test_temporary_faults_are_retried(server, make, url, fault, kind):
    with make(url, retries=QUICK) as client:
        session = client.open(IMAGE)
        server.faults = [fault, fault]
        np.testing.assert_array_equal(session.click(20, 20), disks(session.clicks()))
        assert server.faults == []
        before = session.mask()
        server.faults = [fault] * 3
        with pytest.raises(kind):
            session.click(30, 20)
        assert server.faults == []
        np.testing.assert_array_equal(session.mask(), before)
        assert len(session.clicks()) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ((grpc.StatusCode.INVALID_ARGUMENT, 400, "OIS:INVALID_CLICK: no"), OISError),
        ((grpc.StatusCode.INTERNAL, 500, "OIS:ENGINE_ERROR: no"), OISError),
        ((grpc.StatusCode.NOT_FOUND, 404, "unknown model 'ois_segment'"), IncompatibleServer),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, 413, "message larger than max"), InvalidImage),
        ((grpc.StatusCode.UNKNOWN, 500, "what?"), OISError),
    ],
)
def test_permanent_faults_are_not_retried(server, make, url, fault, kind):
    with make(url, retries=QUICK) as client:
        session = client.open(IMAGE)
        server.faults = [fault]
        with pytest.raises(kind) as caught:  # a second attempt would succeed
            session.click(20, 20)
        assert not isinstance(caught.value, ServerUnavailable)
        assert session.clicks() == ()


def test_a_late_answer_exceeds_the_deadline_and_changes_nothing(server, make, url):
    with make(url, timeouts=Timeouts(click_s=0.75), retries=QUICK) as client:
        session = client.open(IMAGE)
        server.delay_s = 60
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"within 0\.75 s"):
            session.click(20, 20)
        assert 0.7 < time.monotonic() - begin < 30
        assert session.clicks() == ()
        server.delay_s = 0
        session.click(20, 20)
        assert len(server.disks.requests) == 1


def test_retries_end_before_the_deadline(server, make, url):
    patient = Retries(attempts=100, backoff_s=0.05)
    with make(url, timeouts=Timeouts(click_s=0.3), retries=patient) as client:
        session = client.open(IMAGE)
        server.faults = [UNAVAILABLE] * 100
        begin = time.monotonic()
        with pytest.raises((ServerOverloaded, DeadlineExceeded)):  # on a busy machine the latter
            session.click(20, 20)
        assert time.monotonic() - begin < 30  # all attempts would take minutes


def test_without_a_server_the_error_names_the_address_and_the_command(make, protocol):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"{protocol}://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ServerUnavailable, match=rf"{url}.*ois serve"), make(url, retries=QUICK):
        pass


def test_a_server_that_never_answers_is_unavailable(make, protocol):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"{protocol}://127.0.0.1:{silent.getsockname()[1]}"
        with (
            pytest.raises(ServerUnavailable, match="ois serve"),
            make(url, timeouts=Timeouts(connect_s=0.3), retries=ONCE),
        ):
            pass


def test_the_wrong_protocol_in_the_address_is_a_typed_error(server, make, protocol):
    other = server.urls["http" if protocol == "grpc" else "grpc"].partition("//")[2]
    with (
        pytest.raises((ServerUnavailable, IncompatibleServer)),
        make(f"{protocol}://{other}", timeouts=Timeouts(connect_s=1), retries=ONCE),
    ):
        pass


def free_ports():
    """A free port such that the next one is free too."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def test_a_client_reconnects_to_a_restarted_server(make, protocol):
    port = free_ports()
    with WireServer(port=port) as first:
        client = connected(make(first.urls[protocol], retries=QUICK))
        session = client.open(IMAGE)
        session.click(20, 20)
    with pytest.raises(ServerUnavailable):
        session.click(30, 20)
    np.testing.assert_array_equal(session.mask(), disks(session.clicks()))
    with WireServer(port=port) as second:
        patience = time.monotonic() + 60
        while len(session.clicks()) < 2 and time.monotonic() < patience:
            with contextlib.suppress(ServerUnavailable):
                session.click(30, 20)
        np.testing.assert_array_equal(session.mask(), disks(session.clicks()))
        assert second.disks.encodes == 1
        client.close()


# -- other servers --------------------------------------------------------------------------------


def info_with(**changes):
    return lambda info: json.dumps(json.loads(info.to_json()) | changes)


@pytest.mark.parametrize(
    "changes", [{"contract": 2}, {"preprocess_version": "0:x"}, {"longest": 141}, {"patch": "14"}]
)
def test_a_server_of_another_contract_is_refused_at_once(server, make, url, changes):
    server.info = info_with(**changes)
    with pytest.raises(IncompatibleServer), make(url, retries=QUICK):
        pass
    assert len(server.headers) == 1


def test_a_session_refuses_a_replaced_model_and_new_sessions_accept_it(server, make, url):
    with make(url) as client:
        session = client.open(IMAGE)
        session.click(20, 20)
        server.model_sha256 = "bb" * 32
        with pytest.raises(IncompatibleServer, match=r"bbbb.*aaaa.*open the image again"):
            session.click(30, 20)
        server.disks.images.clear()
        with pytest.raises(IncompatibleServer, match="bbbb"):
            session.click(30, 20)
        assert len(session.clicks()) == 1
        assert client.open(IMAGE).click(20, 20).any()


def test_a_session_refuses_a_replaced_model_of_another_size(server, make, url):
    with make(url) as client:
        session = client.open(IMAGE)
        session.click(20, 20)
        server.model_sha256 = "bb" * 32
        fault = (grpc.StatusCode.INVALID_ARGUMENT, 400, "OIS:INVALID_INPUT: got COVERAGE of shape")
        server.faults = [fault]
        with pytest.raises(IncompatibleServer, match="bbbb"):
            session.click(30, 20)


# -- cancelling ----------------------------------------------------------------------------------


def test_a_newer_click_supersedes_the_waiting_ones(server, make, url, protocol):
    with make(url) as client, ThreadPoolExecutor(4) as pool:
        session = client.open(IMAGE)
        session.click(5, 5)
        server.delay_s = 0.4
        earlier = [pool.submit(session.click, x, 20) for x in (20, 30)]
        time.sleep(0.15)
        latest = pool.submit(session.click, 40, 20, supersede=True)
        for call in earlier:
            with pytest.raises(Cancelled):
                call.result(10)
        np.testing.assert_array_equal(latest.result(10), disks(session.clicks()))
        assert [click.x for click in session.clicks()] == [5, 40]
        if protocol == "grpc":
            assert server.given_up == 1


def test_closing_cancels_calls_in_progress_and_refuses_new_ones(server, make, protocol):
    client = connected(make(server.urls[protocol], retries=QUICK))
    session = client.open(IMAGE)
    server.delay_s = 0.5
    with ThreadPoolExecutor() as pool:
        call = pool.submit(session.click, 20, 20)
        time.sleep(0.15)
        client.close()
        if protocol == "grpc":
            with pytest.raises(Cancelled):
                call.result(10)
        else:  # an HTTP call may still complete
            assert call.exception(10) is None or isinstance(call.exception(), OISError)
    client.close()
    before = session.clicks()
    with pytest.raises(InvalidInput, match="closed"):
        session.click(20, 20)
    with pytest.raises(InvalidInput, match="closed"):
        client.open(IMAGE)
    assert session.clicks() == before


def test_a_cancelled_task_cancels_its_click_and_changes_nothing(server, protocol):
    async def main():
        async with AsyncClient(server.urls[protocol]) as client:
            session = await client.open(IMAGE)
            await session.click(20, 20)
            server.delay_s = 1
            click = asyncio.create_task(session.click(30, 20))
            await asyncio.sleep(0.15)
            click.cancel()
            with pytest.raises(asyncio.CancelledError):
                await click
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.click(30, 20), 0.1)
            server.delay_s = 0
            assert len(session.clicks()) == 1
            await session.click(40, 20)
            np.testing.assert_array_equal(session.mask(), disks(session.clicks()))
            assert len(session.clicks()) == 2

    asyncio.run(main())
    if protocol == "grpc":  # whether both had reached the server depends on timing
        assert server.given_up >= 1


def test_undo_during_a_click_drops_that_click(server):
    async def main():
        async with AsyncClient(server.urls["grpc"]) as client:
            session = await client.open(IMAGE)
            await session.click(20, 20)
            server.delay_s = 0.2
            click = asyncio.create_task(session.click(30, 20))
            await asyncio.sleep(0.05)
            session.undo()
            with pytest.raises(InvalidInput, match="changed while"):
                await click
            assert session.clicks() == ()

    asyncio.run(main())


# -- many at once ---------------------------------------------------------------------------------


def test_threads_share_a_client(server, url):
    images = [np.full((60, 80), shade, dtype=np.uint8) for shade in range(4)]
    with Client(url) as client, ThreadPoolExecutor(16) as pool:

        def work(number):
            session = client.open(images[number % 4])
            for step in range(4):
                session.click(4 * number % 80, 10 + 10 * step)
            np.testing.assert_array_equal(session.mask(), disks(session.clicks()))
            return len(session.clicks())

        assert list(pool.map(work, range(16))) == [4] * 16
    assert server.disks.encodes == 16
    assert {len(server.disks.images), len(server.disks.requests)} == {4, 64}


def test_tasks_share_a_client(server, url):
    async def main():
        async with AsyncClient(url) as client:

            async def work(number):
                session = await client.open(IMAGE)
                await asyncio.gather(*(session.click(4 * number, 10 * k) for k in range(4)))
                np.testing.assert_array_equal(session.mask(), disks(session.clicks()))

            await asyncio.gather(*(work(number) for number in range(16)))

    asyncio.run(main())
    assert len(server.disks.requests) == 64


# -- shared memory --------------------------------------------------------------------------------


def regions():
    return set(Path("/dev/shm").glob("psm_*"))


def test_pictures_may_go_through_shared_memory(make, protocol):
    before = regions()
    with (
        WireServer(mapping=True) as server,
        make(server.urls[protocol], shared_memory=True) as client,
    ):
        for image in (IMAGE, IMAGE + 1):
            session = client.open(image)
            np.testing.assert_array_equal(session.click(20, 20), disks(session.clicks()))
        server.disks.images.clear()
        session.click(30, 20)  # the picture is sent with the click
        assert server.regions == 3
        assert server.shared == {}
        # The server lost the regions, as after a restart: the picture is sent over the network.
        server.input_of = lambda *args, real=server.input_of: (
            server.shared.clear(),
            real(*args),
        )[1]
        assert client.open(IMAGE + 2).click(20, 20).any()
        assert server.regions == 3
    assert regions() == before


def test_if_shared_memory_is_refused_pictures_are_sent_over_the_network(server, make, url):
    with make(url, shared_memory=True) as client:
        assert client.open(IMAGE).click(20, 20).any()
        assert client.open(IMAGE + 1).click(20, 20).any()
    assert server.disks.encodes == 2
    assert server.regions == 0


# -- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate, key), self-signed for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate; it is not installed")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-out",
        paths[0],
        "-keyout",
        paths[1],
    ]
    subprocess.run(command, check=True, capture_output=True)
    return paths


def test_grpc_through_tls(make, certificate):
    path, key = certificate
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), path.read_bytes())])
    with WireServer(credentials=credentials) as server:
        url = server.urls["grpc"]
        with make(url, tls=TLS(ca=path)) as client:
            assert client.open(IMAGE).click(20, 20).any()
        for options in ({}, {"retries": ONCE}):
            with (
                pytest.raises(ServerUnavailable),
                make(url, **options, timeouts=Timeouts(connect_s=1)),
            ):
                pass


def test_https_through_tls(make, certificate):
    import ssl

    path, key = certificate
    with WireServer() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path, key)
        server._http.socket = context.wrap_socket(server._http.socket, server_side=True)
        url = f"https://localhost:{server._http.server_address[1]}"
        with make(url, tls=TLS(ca=path)) as client:
            assert client.open(IMAGE).click(20, 20).any()
        with pytest.raises(ServerUnavailable, match="certificate"), make(url, retries=ONCE):
            pass


# -- the two clients ------------------------------------------------------------------------------


def public(kind):
    return {
        name: value
        for name, value in inspect.getmembers(kind)
        if not name.startswith("_") and not isinstance(value, type)
    }


def test_both_clients_have_the_same_names_and_arguments():
    only_async = {AsyncClient: {"connect"}, AsyncSession: {"encode"}}
    for blocking, on_loop in ((Client, AsyncClient), (Session, AsyncSession)):
        names, others = public(blocking), public(on_loop)
        assert others.keys() - names.keys() == only_async[on_loop]
        assert names.keys() <= others.keys()
        for name, value in names.items():
            if callable(value):
                ours, theirs = inspect.signature(value), inspect.signature(others[name])
                assert ours.parameters.keys() == theirs.parameters.keys(), name
                defaults = [parameter.default for parameter in ours.parameters.values()]
                assert defaults == [one.default for one in theirs.parameters.values()], name


def test_engines_in_this_process_work_on_an_event_loop_too():
    from support.disks import Disks

    async def main():
        transport = Disks()
        async with AsyncClient(transport) as client:
            assert client.info.network == "disks"
            session = await client.open(IMAGE, encode=False)
            assert session.last_encode is None
            np.testing.assert_array_equal(await session.click(20, 20), disks(session.clicks()))
            transport.fail_next = [UnknownImage("x")] * 2
            with pytest.raises(UnknownImage):
                await session.click(30, 20)
            assert len(session.clicks()) == 1
        assert transport.closed == 1
        unconnected = AsyncClient(transport)
        with pytest.raises(InvalidInput, match="not connected"):
            unconnected.info  # noqa: B018
        transport.preprocess_version = "0:x"
        with pytest.raises(IncompatibleServer):
            await unconnected.connect()
        assert transport.closed == 2
        with pytest.raises(InvalidInput, match="threads"):
            AsyncClient(transport, threads=2)

    asyncio.run(main())


def test_model_info_is_what_the_server_said(server, make, url):
    with make(url) as client:
        expected = dataclasses.replace(server.disks.info(), model_sha256=server.model_sha256)
        assert client.info == expected
