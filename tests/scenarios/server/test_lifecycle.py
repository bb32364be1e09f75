"""The embedded server restarts what dies, and is ready when it answers a click."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError, OISError
from ois_client.wire import click_message, read_click_reply
from ois_runtime.embedded import server as server_module
from ois_runtime.embedded.command import choose_ports
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.probe import probe_click, probe_info
from ois_runtime.embedded.process import ServerProcess
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import click_request, eventually, infer, picture
from support.server.processes import processes_of, shared_memory_of

SMALL = ServerOptions(cache_bytes=16 * 2**20, exit_timeout_s=20)


def works(server: EmbeddedServer) -> bool:
    image = picture(1)
    request = click_request(image, [Click(40, 40)])
    try:
        reply = read_click_reply(infer(server, click_message(request, picture=image)), request)
    except (OISError, InferenceServerException):
        return False
    return bool(reply.masks.any())


def test_killed_processes_are_restarted_at_the_same_address(engines: Path) -> None:
    before = shared_memory_of(os.getpid())
    with EmbeddedServer(engines, SMALL) as server:
        address = server.grpc_url
        assert server.start() is server  # it is already running
        victims = ("ois_segment", "ois_decoder", "tritonserver", "front")
        for count, victim in enumerate(victims, start=1):
            assert works(server)
            group = server.pid
            assert group is not None
            models = {line: pid for pid, line in server.python_models().items()}
            pid = next((pid for line, pid in models.items() if victim in line), group)
            if victim == "front":
                pid = server.front_pid or 0
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: server.restarts, lambda restarts, n=count: restarts == n)
            assert server.restarts == count
            assert not processes_of(group)
        assert works(server)
        assert server.grpc_url == address
        assert not server.wait(timeout_s=0)
    assert server.pid is None
    assert server.wait(timeout_s=0)
    assert shared_memory_of(os.getpid()) == before
    server.stop()
    with pytest.raises(EngineError, match="make a new EmbeddedServer"):
        server.start()


def test_a_model_that_dies_before_the_watch_begins_is_noticed(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch knows the models that ran when the server was ready, not those it still finds."""
    watch = EmbeddedServer._watch
    killed = threading.Event()

    def late(server: EmbeddedServer) -> None:
        killed.wait(30)
        watch(server)

    monkeypatch.setattr(EmbeddedServer, "_watch", late)
    with EmbeddedServer(engines, SMALL) as server:
        pid = next(pid for pid, line in server.python_models().items() if "ois_encoder" in line)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: pid not in server.python_models(), bool)
        killed.set()
        assert eventually(lambda: server.restarts, bool) == 1
        assert eventually(lambda: works(server), bool)


def test_a_model_that_dies_during_the_start_ends_it_at_once(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ServerProcess.models
    killed: list[int] = []

    def kill_the_first(process: ServerProcess) -> dict[int, str]:
        found = models(process)
        if found and not killed:
            killed.append(next(iter(found)))
            os.kill(killed[0], signal.SIGKILL)
        return found

    monkeypatch.setattr(ServerProcess, "models", kill_the_first)
    server = EmbeddedServer(engines, SMALL)
    began = time.monotonic()
    with pytest.raises(EngineError, match="during its start"):
        server.start()
    assert killed
    assert time.monotonic() - began < 100  # not the two minutes that a start may take
    server.stop()


def test_two_servers_cannot_have_the_same_ports(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found the ports free. The second one's probe is answered by the first."""
    with EmbeddedServer(engines, SMALL) as first:
        monkeypatch.setattr(server_module, "choose_ports", lambda _options: first.ports)
        second = EmbeddedServer(engines, SMALL)
        with pytest.raises(EngineError, match=r"ended during its start:\n.*in use"):
            second.start()
        second.stop()
        assert works(first)
        assert first.restarts == 0


def test_an_engine_that_does_not_load_fails_the_start_with_the_cause(
    engines: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "repository"
    for path in (engines / "repository").rglob("*"):
        if path.is_file():
            target = broken / path.relative_to(engines / "repository")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (broken / "ois_decoder" / "1" / "model.onnx").write_bytes(b"nonsense")
    before = shared_memory_of(os.getpid())
    with pytest.raises(EngineError, match=r"ONNX Runtime [0-9.]+ cannot load"):
        EmbeddedServer(broken, SMALL).start()
    assert shared_memory_of(os.getpid()) == before


# -- probes ------------------------------------------------------------------------------------


def test_a_probe_is_a_click(server: EmbeddedServer) -> None:
    probe_click(server.options.host, server.ports.http)
    assert probe_info(server.options.host, server.ports.http)["network"] == "tiny-test"


def test_a_probe_without_a_server_is_a_typed_error() -> None:
    ports = choose_ports(ServerOptions())
    for probe in (probe_click, probe_info):
        with pytest.raises(OISError, match="nothing answers"):
            probe("127.0.0.1", ports.http, timeout_s=1)
