"""A container's main process ends when its server ends or stops answering."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ois_export.repository import write_repository
from ois_runtime.engines.manifest import Manifest
from support.server.ports import free_port
from support.tiny_engines import write_engines

DOCKER = Path(__file__).resolve().parents[2] / "docker"

#: A server that opens a port, prints "open", and ends on SIGTERM. After a line on stdin it closes
#: the port but keeps running.
SERVER = """
import select, signal, socket, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("open", flush=True)
# With a timeout: Python handles a signal that arrives just before a blocking call only after it.
while not select.select([sys.stdin], [], [], 0.1)[0]:
    pass
sys.stdin.readline()
listening.close()
print("closed", flush=True)
while True:
    time.sleep(0.1)
"""

#: `supervise` as in the entry points, but with more frequent checks.
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from supervise import port_accepts_connections, supervise
sys.exit(supervise(sys.argv[2:], port_accepts_connections, every_s=0.1, grace_s=0.5))
"""


def supervised(program: str, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, str(port)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(DOCKER), *command],
        env={**os.environ, "OIS_HEALTH_PORT": str(port)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_it_ends_when_the_server_no_longer_answers() -> None:
    process = supervised(SERVER, free_port())
    assert line_of(process) == "open"
    time.sleep(0.5)
    assert process.poll() is None
    said = process.communicate("close the port\n", timeout=60)
    assert process.returncode == 1
    assert "closed" in said[0]
    assert "failed to answer 3 times" in said[1]


def test_a_server_that_does_not_end_is_killed() -> None:
    stubborn = SERVER.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
    process = supervised(stubborn, free_port())
    assert line_of(process) == "open"
    time.sleep(0.5)
    process.communicate("close the port\n", timeout=60)
    assert process.returncode == 1


def test_there_is_no_time_limit_on_the_start() -> None:
    slow = SERVER.replace("listening =", "import time; time.sleep(1.5); listening =")
    process = supervised(slow, free_port())
    assert line_of(process) == "open"  # after about fifteen failed checks
    process.terminate()
    assert process.wait(timeout=60) == 0
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_server_and_its_status_is_returned(number: int) -> None:
    server = SERVER.replace("signal.SIGTERM, lambda *_: sys.exit(0)", f"{int(number)}, ended")
    server = "import sys\ndef ended(*_):\n    sys.exit(7)\n" + server
    process = supervised(server, free_port())
    assert line_of(process) == "open"
    process.send_signal(number)
    assert process.wait(timeout=60) == 7
    process.communicate()


@pytest.mark.parametrize(("ends", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_it_ends_with_the_server(ends: str, status: int) -> None:
    process = supervised(f"import os, sys; {ends}", free_port())
    process.communicate(timeout=60)
    assert process.returncode == status


def test_the_cpu_container_supervises_its_server() -> None:
    script = (DOCKER / "cpu-entrypoint.sh").read_text()
    assert 'exec python3 "$here/supervise.py" ois serve' in script


def test_the_gpu_container_passes_signals_and_the_exit_status_on(tmp_path: Path) -> None:
    """The real entry point, with a stand-in for NVIDIA's server."""
    engines = write_engines(tmp_path / "engines")
    write_repository(engines, Manifest.load(engines))
    triton = tmp_path / "tritonserver"
    triton.write_text(
        f"#!{sys.executable}\nimport signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print(sys.argv[-1], flush=True)\nsignal.pause()\n"
    )
    triton.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "OIS_ENGINES": str(engines),
        "OIS_PLANS": str(tmp_path / "plans"),
        "OIS_WITHOUT_PLANS": "onnx",
        "OIS_CACHE_BYTES": str(2**20),
        "OIS_HEALTH_PORT": str(free_port()),
    }
    process = subprocess.Popen(
        [sys.executable, str(DOCKER / "gpu_entrypoint.py"), "--log-verbose=1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert line_of(process) == "--log-verbose=1"
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 5, said
