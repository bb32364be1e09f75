"""`kill -9` of what serves, and a restart of all of it, while people click without a pause.

A click is answered or fails with a typed error within its deadline. None that was answered is
lost, none that failed leaves a trace, and soon all of them are answered again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ois_client import Client
from ois_client.contract.errors import (
    DeadlineExceeded,
    OISError,
    ServerOverloaded,
    ServerUnavailable,
)
from ois_client.transports.settings import Retries, Timeouts
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import eventually
from support.server.players import Player, pixels, play_while

CLICK_S, ENCODE_S = 4.0, 4.0
#: A click on an image that was lost is sent again with it, and has the time of both for that.
DEADLINE_S = 2 * CLICK_S + ENCODE_S
TEMPORARY = (ServerUnavailable, ServerOverloaded, DeadlineExceeded)
OPTIONS = ServerOptions(cache_bytes=16 * 2**20, exit_timeout_s=20)


def kill(server: EmbeddedServer, name: str) -> None:
    """SIGKILL for the server's process, or that of one of its models."""
    if name == "tritonserver":
        pid = server.pid
        assert pid is not None
    else:
        pid = next(pid for pid, line in server.python_models().items() if name in line)
    os.kill(pid, signal.SIGKILL)


def answers_again(players: list[Player], within_s: float = 20) -> None:
    """Each player gets an answer; errors before that are typed, and nothing is lost."""
    for player in players:
        assert eventually(player.click, bool, within_s), player.errors[-1]
        player.check()


def nothing_untyped(players: list[Player]) -> None:
    for player in players:
        assert all(isinstance(error, TEMPORARY) for error in player.errors), player.errors
        assert all("Traceback" not in str(error) for error in player.errors)
        assert player.slowest_s < DEADLINE_S + 1


def test_killed_processes_cost_no_click_that_was_answered(engines: Path) -> None:
    timeouts = Timeouts(click_s=CLICK_S, encode_s=ENCODE_S)
    with (
        EmbeddedServer(engines, OPTIONS) as server,
        Client(f"local:{engines}") as twin,
        Client(server.grpc_url, timeouts=timeouts) as grpc,
        Client(server.http_url, timeouts=timeouts) as http,
    ):
        players = [
            Player(grpc if n % 2 else http, twin, pixels(4000 + n), seed=n) for n in range(4)
        ]

        def disaster(name: str) -> Callable[[], None]:
            def happen() -> None:
                restarts = server.restarts
                time.sleep(0.3)
                kill(server, name)
                eventually(lambda: server.restarts, lambda n: n > restarts, within_s=30)
                time.sleep(0.3)

            return happen

        for name in ("ois_segment", "tritonserver"):
            before = sum(player.answered for player in players)
            play_while(players, disaster(name))
            answers_again(players)
            assert sum(player.answered for player in players) > before + 4
        nothing_untyped(players)
        assert server.restarts == 2


def test_a_server_that_is_stopped_and_started_again_costs_no_click(engines: Path) -> None:
    """As an upgrade does. Patient clients do not even see an error."""
    patient = Retries(attempts=40, backoff_s=0.2, max_backoff_s=0.5)
    timeouts = Timeouts(click_s=30, encode_s=30)
    with (
        EmbeddedServer(engines, OPTIONS) as first,
        Client(f"local:{engines}") as twin,
        Client(first.grpc_url, timeouts=timeouts, retries=patient) as client,
    ):
        players = [Player(client, twin, pixels(4100 + n), seed=n) for n in range(4)]
        same_address = ServerOptions(
            grpc_port=first.ports.grpc, cache_bytes=16 * 2**20, exit_timeout_s=20
        )
        started: list[EmbeddedServer] = []

        def upgrade() -> None:
            time.sleep(0.3)
            first.stop()
            started.append(EmbeddedServer(engines, same_address).start())
            time.sleep(0.5)

        try:
            play_while(players, upgrade)
            answers_again(players)
        finally:
            for server in started:
                server.stop()
        errors: list[OISError] = [error for player in players for error in player.errors]
        assert errors == []
        assert all(player.session.last_encode is not None for player in players)
