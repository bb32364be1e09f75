"""The server's processes are killed, or the whole server restarts, while users keep clicking.

Every click is answered or fails with a typed error within its deadline. Answered clicks are not
lost, failed clicks leave the session unchanged, and soon all clicks are answered again.
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
#: If the server has lost the image, the click is sent again with it, within the time of both.
DEADLINE_S = 2 * CLICK_S + ENCODE_S
TEMPORARY = (ServerUnavailable, ServerOverloaded, DeadlineExceeded)
OPTIONS = ServerOptions(cache_bytes=16 * 2**20, exit_timeout_s=20)


def kill(server: EmbeddedServer, name: str) -> None:
    """Send SIGKILL to the server's process or to that of one of its models."""
    if name == "tritonserver":
        pid = server.pid
        assert pid is not None
    else:
        pid = next(pid for pid, line in server.python_models().items() if name in line)
    os.kill(pid, signal.SIGKILL)


def answers_again(players: list[Player]) -> None:
    """Every player gets an answer, and no click is lost."""
    for player in players:
        assert eventually(player.click, bool), player.errors[-1]
        player.check()


def all_errors_are_typed(players: list[Player]) -> None:
    for player in players:
        assert all(isinstance(error, TEMPORARY) for error in player.errors), player.errors
        assert all("Traceback" not in str(error) for error in player.errors)
        assert player.slowest_s < DEADLINE_S + 5  # of which a busy machine takes its part


def test_killed_processes_lose_no_answered_click(engines: Path) -> None:
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

        def killing(name: str) -> Callable[[], None]:
            def run() -> None:
                restarts = server.restarts
                time.sleep(0.3)
                kill(server, name)
                eventually(lambda: server.restarts, lambda n: n > restarts)
                time.sleep(0.3)

            return run

        for name in ("ois_segment", "tritonserver"):
            before = sum(player.answered for player in players)
            play_while(players, killing(name))
            answers_again(players)
            assert sum(player.answered for player in players) > before + 4
        all_errors_are_typed(players)
        assert server.restarts == 2


def test_clients_that_retry_see_no_error_when_the_server_restarts(engines: Path) -> None:
    """A restart as in an upgrade."""
    patient = Retries(attempts=1000, backoff_s=0.2, max_backoff_s=0.5)
    timeouts = Timeouts(click_s=120, encode_s=120)
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
