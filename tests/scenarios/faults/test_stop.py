"""A server that is stopped: requests in progress are answered, and nothing of it remains."""

from __future__ import annotations

import http.client
import os
import re
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from ois_client import Client
from ois_client.contract.clicks import Click
from ois_client.contract.errors import ServerUnavailable
from ois_client.transports.settings import Retries
from ois_client.wire import click_message, encode_message, read_click_reply, read_info
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import (
    click_request,
    eventually,
    infer,
    picture,
    triton_statistics,
    wait_until_in_progress,
)
from support.server.malformed import GOOD, RawRequest
from support.server.players import Player, pixels, play_while
from support.server.processes import children, processes_of, serving, shared_memory_of
from support.server.slow_engines import write_engines_that_take

ONCE = Retries(attempts=1)
SMALL = ServerOptions(cache_bytes=2**24)


@pytest.fixture(scope="module")
def slow_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their encode takes longer than the server lets a connection be idle."""
    return write_engines_that_take(2.0, tmp_path_factory.mktemp("slow"))


def test_sigterm_lets_encodes_finish_and_later_requests_fail_with_a_typed_error(
    slow_engines: Path,
) -> None:
    with (
        serving(slow_engines, cache_bytes=2**24) as (process, server),
        Client(f"local:{slow_engines}") as twin,
    ):
        urls = server.grpc_url, server.http_url
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(url, retries=ONCE)) for url in urls]
            players = [Player(client, twin, pixels(7000), seed=0) for client in clients]
            assert all(player.click() for player in players)
            with ThreadPoolExecutor(2) as pool:
                encodes = [
                    pool.submit(client.open, pixels(7001 + n)) for n, client in enumerate(clients)
                ]
                wait_until_in_progress(server, 2 * pixels(7001).nbytes)
                process.terminate()
                sessions = [encode.result(timeout=120) for encode in encodes]
            assert all(session.last_encode is not None for session in sessions)
        process.communicate(timeout=120)
        assert process.returncode == 0
        assert not shared_memory_of(process.pid)
        for player in players:  # the session does not need its server
            player.check()
        for url in urls:
            with pytest.raises(ServerUnavailable):
                Client(url, retries=ONCE)


def test_sigterm_among_steady_clicks_cuts_none_off(engines: Path) -> None:
    """There is always a click in progress, and a request that takes as long as the test wants."""
    path, body, headers = RawRequest("", GOOD).http()
    with (
        serving(engines) as (process, server),
        Client(f"local:{engines}") as twin,
        ExitStack() as stack,
    ):
        players = []
        for n in range(12):
            url = server.grpc_url if n % 3 == 0 else server.http_url
            client = stack.enter_context(Client(url, retries=ONCE))
            players.append(Player(client, twin, pixels(7100 + n), seed=n))
        slow = http.client.HTTPConnection(server.options.host, server.ports.http, timeout=60)
        slow.putrequest("POST", path)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            slow.putheader(name, value)
        slow.endheaders()
        slow.send(body[:-1])
        said = ""

        def stop() -> None:
            nonlocal said
            assert eventually(lambda: sum(one.answered for one in players) > 60, bool)
            process.terminate()
            assert eventually(lambda: all(one.errors for one in players), bool)
            assert process.poll() is None
            slow.send(body[-1:])
            answer = slow.getresponse()
            assert answer.status == 200
            assert answer.read()
            _, said = process.communicate(timeout=120)

        play_while(players, stop)  # every answer is compared
        slow.close()
    assert process.returncode == 0, said
    assert not shared_memory_of(process.pid)
    errors = [error for player in players for error in player.errors]
    assert {type(error) for error in errors} == {ServerUnavailable}
    assert not [text for text in map(str, errors) if not re.search("stopping|no OIS server", text)]
    # Nothing that the server answered was lost on its way.
    assert said.count("ois click ok") == sum(player.answered for player in players) + 1


def test_sigterm_lets_clicks_finish_and_leaves_nothing(
    slow_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clicks run a second model of the server, after it was told to stop."""
    monkeypatch.setenv("OIS_DECODER", "triton")
    images = {"grpc": picture(2), "http": picture(3)}
    requests = {name: click_request(image, [Click(40, 40)]) for name, image in images.items()}
    with serving(slow_engines) as (process, server), ThreadPoolExecutor(2) as pool:
        before = triton_statistics(server)["ois_decoder"]
        clicks = {}
        for protocol, request in requests.items():
            message = click_message(request, picture=images[protocol])
            clicks[protocol] = pool.submit(infer, server, message, protocol=protocol, timeout_s=120)
        wait_until_in_progress(server, sum(image.pixels().nbytes for image in images.values()))
        assert triton_statistics(server)["ois_decoder"] == before  # they still encode
        process.terminate()
        _, said = process.communicate(timeout=120)
        for protocol, click in clicks.items():
            assert read_click_reply(click.result(), requests[protocol]).masks.any()
    assert process.returncode == 0, said
    assert "stopped" in said
    assert not shared_memory_of(process.pid)


def test_a_connection_that_is_only_kept_open_does_not_delay_the_end(slow_engines: Path) -> None:
    image = picture(3)
    with serving(slow_engines) as (process, server), ThreadPoolExecutor(1) as pool:
        idle = http.client.HTTPConnection(server.options.host, server.ports.http)
        idle.request("GET", "/v2/health/ready")
        assert idle.getresponse().read() == b""
        encode = pool.submit(infer, server, encode_message(image), protocol="http")
        wait_until_in_progress(server, image.pixels().nbytes)
        process.terminate()
        assert not read_info(encode.result(timeout=120)).cached
        _, said = process.communicate(timeout=45)  # Triton itself would wait for 60 s
        idle.close()
    assert process.returncode == 0, said
    assert not shared_memory_of(process.pid)


def test_ctrl_c_ends_the_server_without_an_error(engines: Path) -> None:
    with serving(engines) as (process, server):
        assert click_is_answered(server)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert not shared_memory_of(process.pid)


def test_the_server_dies_with_its_parent_and_leaves_nothing(engines: Path) -> None:
    with serving(engines) as (process, server):
        (guard,) = children(process.pid)
        triton, front = children(guard)
        assert click_is_answered(server)
        assert shared_memory_of(process.pid)
        process.kill()
        for group in (triton, front):
            assert not eventually(lambda g=group: processes_of(g), lambda names: not names)
        assert not eventually(lambda: shared_memory_of(process.pid), lambda names: not names)


def test_the_next_start_removes_what_is_left_if_all_are_killed(engines: Path) -> None:
    with serving(engines) as (process, _), EmbeddedServer(engines, SMALL) as other:
        (guard,) = children(process.pid)
        triton, _ = children(guard)
        prefix = f"ois-{process.pid}-"
        (lock,) = [
            path
            for path in Path(tempfile.gettempdir()).glob("ois-server-*/lock")
            if path.read_text().startswith(prefix)
        ]
        os.kill(process.pid, signal.SIGSTOP)  # or it would start another server
        for pid in (guard, triton, process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        assert shared_memory_of(process.pid)
        EmbeddedServer(engines, SMALL)
        assert not shared_memory_of(process.pid)
        assert not lock.parent.exists()
        assert not eventually(lambda: processes_of(triton), lambda names: not names)
        assert click_is_answered(other)  # which runs, so nothing of it was touched


def click_is_answered(server: EmbeddedServer) -> bool:
    image = picture(1)
    request = click_request(image, [Click(40, 40)])
    reply = read_click_reply(infer(server, click_message(request, picture=image)), request)
    return bool(reply.masks.any())
