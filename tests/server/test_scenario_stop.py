"""SIGTERM to `ois serve`: requests in flight are answered, later ones fail with a typed error."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nginx import free_ports
from players import Player, pixels
from slow_engines import write_slow_engines

from ois_client import Client
from ois_client.errors import ServerUnavailable
from ois_client.settings import Retries


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_sigterm_answers_what_is_in_flight(tmp_path: Path, protocol: str) -> None:
    engines = write_slow_engines(tmp_path / "engines", products=30)
    grpc, http, metrics = free_ports(3)
    command = [
        *(sys.executable, "-m", "ois_cli.main", "serve", f"--engines={engines}"),
        *(f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"),
        f"--cache-bytes={2**24}",
    ]
    url = {"grpc": f"grpc://127.0.0.1:{grpc}", "http": f"http://127.0.0.1:{http}"}[protocol]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and not line.startswith("ready"):
            pass
        assert line, process.stderr.read() if process.stderr else ""
        with (
            Client(f"local:{engines}") as twin,
            Client(url, retries=Retries(attempts=1)) as client,
            ThreadPoolExecutor(4) as pool,
        ):
            player = Player(client, twin, pixels(7000), seed=0)
            assert player.click()
            # A click on an image that the server has not got yet: the picture, seconds of
            # encoding, and the click.
            encodes = [pool.submit(client.open, pixels(7001 + n)) for n in range(2)]
            time.sleep(0.3)
            assert not any(encode.done() for encode in encodes)
            process.terminate()
            sessions = [encode.result(timeout=60) for encode in encodes]
            assert all(session.last_encode is not None for session in sessions)
        process.communicate(timeout=60)
        assert process.returncode == 0
        with Client(f"local:{engines}") as twin:  # the sessions outlive the server
            np.testing.assert_array_equal(
                player.session.mask(), _repeat(twin, player.session.clicks())
            )
        with pytest.raises(ServerUnavailable):
            Client(url, retries=Retries(attempts=1))
        assert not list(Path("/dev/shm").glob(f"ois-{process.pid}-*"))
    finally:
        process.kill()
        process.communicate()


def _repeat(twin: Client, clicks: tuple[object, ...]) -> np.ndarray:
    session = twin.open(pixels(7000))
    for click in clicks:
        mask = session.click(click.x, click.y, positive=click.positive)  # type: ignore[attr-defined]
    return mask
