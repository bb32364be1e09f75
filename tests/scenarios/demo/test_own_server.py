"""`ois demo` starts a server, protects it with a token and stops it at the end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ois_client.contract.errors import AccessDenied
from ois_client.sessions.client import Client
from support.demo.calls import click, encoded, noise, open_image


def test_the_server_is_protected_and_ends_with_the_demo(engines: Path) -> None:
    command = [sys.executable, "-m", "ois_cli.main", "demo", "--no-browser", "--port", "0"]
    with subprocess.Popen(
        [*command, "--engines", str(engines)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        page, place, ready = (process.stdout.readline() for _ in range(3))
        assert ready == "ready; Ctrl-C stops\n"
        assert "Triton on this machine" in place
        url, server = page.split()[-1], urlsplit(place.split()[-1])
        head, _ = open_image(url, encoded(noise(40, 30)))
        answer, parts = click(url, head, [[20, 15, True]]).frame
        assert answer["area_px"] > 0
        assert "queue" in answer["timings_ms"]
        assert set(parts) == {"shown", "mask", "coverage"}
        with pytest.raises(AccessDenied):  # without the demo's token
            Client(server.geturl())
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "stopped\n")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.hostname or "", server.port or 0))
