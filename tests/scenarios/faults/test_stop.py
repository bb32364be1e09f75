"""SIGTERM to `ois serve`: requests in flight are answered, later ones fail with a typed error."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from ois_client import Client
from ois_client.contract.errors import ServerUnavailable
from ois_client.transports.settings import Retries
from support.server.nginx import free_ports
from support.server.players import Player, pixels
from support.server.slow_engines import write_engines_that_take

ONCE = Retries(attempts=1)


def test_sigterm_answers_what_is_in_flight(tmp_path: Path) -> None:
    engines = write_engines_that_take(0.8, tmp_path)
    grpc, http, metrics = free_ports(3)
    urls = f"grpc://127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"
    command = [
        *(sys.executable, "-m", "ois_cli.main", "serve", f"--engines={engines}"),
        *(f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"),
        f"--cache-bytes={2**24}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and not line.startswith("ready"):
            pass
        assert line, process.stderr.read() if process.stderr else ""
        with Client(f"local:{engines}") as twin:
            with ExitStack() as stack:
                clients = [stack.enter_context(Client(url, retries=ONCE)) for url in urls]
                players = [Player(client, twin, pixels(7000), seed=0) for client in clients]
                assert all(player.click() for player in players)
                with ThreadPoolExecutor(2) as pool:
                    encodes = [
                        pool.submit(client.open, pixels(7001 + n))
                        for n, client in enumerate(clients)
                    ]
                    time.sleep(0.3)
                    assert not any(encode.done() for encode in encodes)
                    process.terminate()
                    sessions = [encode.result(timeout=60) for encode in encodes]
                assert all(session.last_encode is not None for session in sessions)
            process.communicate(timeout=60)
            assert process.returncode == 0
            for player in players:  # the session outlives its server
                player.check()
        for url in urls:
            with pytest.raises(ServerUnavailable):
                Client(url, retries=ONCE)
        assert not list(Path("/dev/shm").glob(f"ois-{process.pid}-*"))
    finally:
        process.kill()
        process.communicate()
