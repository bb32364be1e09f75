"""Every integration can use a server that requires a token, and says so when it is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import nuclio_sdk
import pytest

import agent
import backend
import interactor
import remote_server
from ois_client import AccessDenied
from ois_client.environment import open_client
from support.tiny_engines import write_engines
from support.wire_server import WireServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WireServer]:
    with WireServer() as server:
        server.token = "s3cret"
        monkeypatch.setenv("OIS_URL", server.urls["grpc"])
        yield server


def start_nuclio() -> None:
    interactor.init_context(nuclio_sdk.Context(nuclio_sdk.Logger(50)))


def start_agent() -> None:
    agent.create(os.environ["OIS_URL"])


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("start", [start_agent, start_nuclio, backend.main, remote_server.main])
def test_a_wrong_token_is_a_sentence_at_the_start(
    start: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIS_TOKEN", "other")
    with pytest.raises((SystemExit, AccessDenied), match="requires a token"):
        start()


def test_the_token_of_the_environment_is_sent_to_servers_only(
    server: WireServer, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("OIS_TOKEN", "s3cret")
    start_agent()
    start_nuclio()
    with open_client() as client:
        assert client.info.network == server.disks.info().network
    with open_client(f"local:{write_engines(tmp_path_factory.mktemp('engines'))}") as client:
        assert client.info.network == "tiny-test"
