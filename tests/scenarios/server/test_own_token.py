"""`ois serve` has a random token, which clients of its user find by themselves, and nobody else."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from ois_client import AsyncClient, Client
from ois_client.contract.errors import AccessDenied
from ois_client.transports.local_token import token_file
from ois_client.wire import info_message, read_info
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import infer
from support.server.players import pixels
from support.server.processes import serving


@pytest.fixture(scope="module")
def server(engines: Path) -> Iterator[EmbeddedServer]:
    with serving(engines, cache_bytes=2**24, own_token=True) as (_, server):
        yield server


def files(server: EmbeddedServer) -> list[Path]:
    found = [token_file(port) for port in (server.ports.grpc, server.ports.http)]
    return [file for file in found if file is not None]


def urls(server: EmbeddedServer) -> list[str]:
    http = server.http_url
    return [server.grpc_url, http, http.replace("127.0.0.1", "localhost")]


def test_clients_of_its_user_need_no_token(server: EmbeddedServer, engines: Path) -> None:
    with Client(f"local:{engines}") as twin:
        mask = twin.open(pixels(1)).click(40, 40)
    for url in urls(server):
        with Client(url) as client:
            np.testing.assert_array_equal(client.open(pixels(1)).click(40, 40), mask)

        async def click(url: str = url) -> np.ndarray:
            async with AsyncClient(url) as client:
                return await (await client.open(pixels(1))).click(40, 40)

        np.testing.assert_array_equal(asyncio.run(click()), mask)


def test_the_commands_need_no_token(server: EmbeddedServer) -> None:
    words = [sys.executable, "-m", "ois_cli.main", "doctor", "--url", server.grpc_url]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_requests_without_the_token_are_refused(server: EmbeddedServer, protocol: str) -> None:
    with pytest.raises(InferenceServerException, match="expecting"):
        infer(server, info_message(), protocol=protocol)
    token = files(server)[0].read_text()
    reply = read_info(infer(server, info_message(), protocol=protocol, token=token))
    assert reply.model.network == "tiny-test"


def test_other_users_are_refused(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {stat.S_IMODE(file.stat().st_mode) for file in files(server)} == {0o600}
    assert len({file.read_text() for file in files(server)}) == 1
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for url in urls(server):
        with pytest.raises(AccessDenied, match="token"):
            Client(url)


def test_a_session_outlives_its_server_and_the_token(engines: Path) -> None:
    with (
        serving(engines, cache_bytes=2**24, own_token=True) as (process, first),
        Client(first.grpc_url) as client,
        Client(first.http_url) as other,
    ):
        sessions = [client.open(pixels(2)), other.open(pixels(2))]
        masks = [session.click(40, 40) for session in sessions]
        token = files(first)[0].read_text()
        process.terminate()
        process.communicate(timeout=60)
        assert not any(file.exists() for file in files(first))
        with serving(engines, cache_bytes=2**24, own_token=True, ports=first.ports) as (_, now):
            assert files(now)[0].read_text() != token
            for session, mask in zip(sessions, masks, strict=True):
                session.undo()
                np.testing.assert_array_equal(session.click(40, 40), mask)


def test_a_second_server_on_its_ports_leaves_the_token(
    server: EmbeddedServer, engines: Path
) -> None:
    before = [file.read_text() for file in files(server)]
    ports = [f"--grpc-port={server.ports.grpc}", f"--http-port={server.ports.http}"]
    words = [sys.executable, "-m", "ois_cli.main", "serve", f"--engines={engines}", *ports]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert [file.read_text() for file in files(server)] == before
