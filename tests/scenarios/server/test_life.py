"""The embedded server starts, survives, and ends: nothing is lost, nothing is left behind."""

from __future__ import annotations

import dataclasses
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from ois_cli.main import main
from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError, InvalidInput, OISError
from ois_client.contract.masks import MaskFormat
from ois_client.wire import click_message, encode_message, read_click_reply, read_info
from ois_export.repository import write_repository
from ois_runtime import gpu_driver as driver
from ois_runtime.embedded.command import choose_ports
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.probe import probe_click, probe_info
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.embedded.staging import repository_of
from ois_runtime.engines.manifest import Manifest
from ois_runtime.gpu_driver import Gpu
from ois_runtime.gpu_driver import probe as probe_driver
from support.server.calls import click_request, eventually, infer, picture, triton_statistics
from support.server.slow_engines import write_engines_that_take
from support.tiny_engines import write_engines

SMALL = ServerOptions(cache_bytes=16 * 2**20, exit_timeout_s=20)


def left_in_shared_memory(pid: int) -> list[str]:
    return sorted(path.name for path in Path("/dev/shm").glob(f"ois-{pid}-*"))


def left_of_group(group: int) -> list[str]:
    """Processes, not zombies, of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, process_group = rest.split()[:3]
        if int(process_group) == group and state not in "ZX":
            found.append(name)
    return found


def works(server: EmbeddedServer) -> bool:
    image = picture(1)
    request = click_request(image, [Click(40, 40)])
    try:
        reply = read_click_reply(infer(server, click_message(request, picture=image)), request)
    except (OISError, InferenceServerException):
        return False
    return bool(reply.masks.any())


def test_what_is_killed_comes_back_at_the_same_address(engines: Path) -> None:
    before = left_in_shared_memory(os.getpid())
    with EmbeddedServer(engines, SMALL) as server:
        address = server.grpc_url
        assert server.start() is server  # it runs already
        for count, victim in enumerate(("ois_segment", "ois_decoder", "tritonserver"), start=1):
            assert works(server)
            group = server.pid
            assert group is not None
            models = {line: pid for pid, line in server.python_models().items()}
            pid = next((pid for line, pid in models.items() if victim in line), group)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: server.restarts, lambda restarts, n=count: restarts == n, 30)
            assert server.restarts == count
            assert not left_of_group(group)
        assert works(server)
        assert server.grpc_url == address
        assert not server.wait(timeout_s=0)
    assert server.pid is None
    assert server.wait(timeout_s=0)
    assert left_in_shared_memory(os.getpid()) == before
    server.stop()
    with pytest.raises(EngineError, match="make a new one"):
        server.start()


# -- `ois serve` -------------------------------------------------------------------------------


@contextmanager
def serving(engines: Path) -> Iterator[tuple[subprocess.Popen[str], EmbeddedServer]]:
    """`ois serve` in a process of its own, and the addresses it should have."""
    ports = choose_ports(ServerOptions())
    options = ServerOptions(grpc_port=ports.grpc, http_port=ports.http, cache_bytes=2**28)
    named = {"grpc": ports.grpc, "http": ports.http, "metrics": ports.metrics}
    words = [f"--{name}-port={port}" for name, port in named.items()]
    words.append(f"--cache-bytes={options.cache_bytes}")
    process = subprocess.Popen(
        [sys.executable, "-m", "ois_cli.main", "serve", f"--engines={engines}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed = []
        while not (printed and printed[-1].startswith("ready")):
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            printed.append(line.strip())
        addresses = EmbeddedServer.__new__(EmbeddedServer)
        addresses.options, addresses.ports = options, ports
        assert f"gRPC:    {addresses.grpc_url}" in printed
        assert f"HTTP:    {addresses.http_url}" in printed
        assert f"metrics: {addresses.metrics_url}" in printed
        yield process, addresses
    finally:
        process.kill()
        process.communicate()


def test_sigterm_lets_clicks_in_flight_finish_and_leaves_nothing(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIS_DECODER", "triton")  # whose statistics show a click half done
    large = picture(2, 1600, 1200)  # its masks take a while to encode
    request = click_request(large, *([Click(9 * n, 9)] for n in range(32)))
    message = click_message(request, mask_format=MaskFormat.PNG)
    with serving(engines) as (process, server), ThreadPoolExecutor(2) as pool:
        infer(server, encode_message(large))
        before = triton_statistics(server)["ois_decoder"]
        clicks = [pool.submit(infer, server, message, protocol=p) for p in ("grpc", "http")]
        # The first of four runs of the decoder each: most of the work is still to come.
        eventually(lambda: triton_statistics(server)["ois_decoder"], lambda count: count > before)
        process.terminate()
        assert not any(click.done() for click in clicks)
        _, said = process.communicate(timeout=40)
        for click in clicks:
            reply = read_click_reply(click.result(), request, mask_format=MaskFormat.PNG)
            assert reply.masks.any(axis=(1, 2)).all()
    assert process.returncode == 0, said
    assert "stopped" in said
    assert not left_in_shared_memory(process.pid)


def test_a_connection_that_is_only_kept_open_does_not_hold_up_its_end(tmp_path: Path) -> None:
    engines = write_engines_that_take(1.5, tmp_path)  # longer than idle connections are given
    with serving(engines) as (process, server), ThreadPoolExecutor(1) as pool:
        idle = http.client.HTTPConnection(server.options.host, server.ports.http)
        idle.request("GET", "/v2/health/ready")
        assert idle.getresponse().read() == b""
        encode = pool.submit(infer, server, encode_message(picture(3)), protocol="http")
        time.sleep(0.3)
        assert not encode.done()
        process.terminate()
        assert not read_info(encode.result(timeout=40)).cached
        _, said = process.communicate(timeout=30)  # Triton itself would wait for 60 s
        idle.close()
    assert process.returncode == 0, said
    assert not left_in_shared_memory(process.pid)


def test_ctrl_c_ends_it_without_an_error(engines: Path) -> None:
    with serving(engines) as (process, server):
        assert works(server)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=40)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert not left_in_shared_memory(process.pid)


def test_it_dies_with_its_parent_and_leaves_nothing(engines: Path) -> None:
    with serving(engines) as (process, server):
        (guard,) = children(process.pid)
        (triton,) = children(guard)
        assert works(server)
        assert left_in_shared_memory(process.pid)
        process.kill()
        assert not eventually(lambda: left_of_group(triton), lambda names: not names, within_s=20)
        assert not eventually(
            lambda: left_in_shared_memory(process.pid), lambda names: not names, within_s=20
        )


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted({int(child) for path in found for child in path.read_text().split()})


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "8.8.8.8"])
def test_other_machines_are_refused_with_the_reason(host: str) -> None:
    with pytest.raises(InvalidInput, match="no TLS on HTTP"):
        ServerOptions(host=host)


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "localhost:80"},
        {"grpc_port": 0},
        {"http_port": 70000},
        {"token": ""},
        {"token": "two words"},
        {"token": "a,b"},
        {"token": "smörgås"},
        {"cache_bytes": 0},
        {"ttl_s": 0},
        {"ttl_s": float("nan")},
        {"exit_timeout_s": 0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="got"):
        ServerOptions(**wrong)  # type: ignore[arg-type]


def test_a_port_in_use_is_named(engines: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f":{port} cannot be used"):
            EmbeddedServer(engines, ServerOptions(grpc_port=port))


def test_a_folder_without_a_repository_names_the_export(tmp_path: Path, engines: Path) -> None:
    assert repository_of(engines) == repository_of(engines / "repository")
    with pytest.raises(EngineError, match="ois export"):
        EmbeddedServer(tmp_path)


def test_an_engine_that_cannot_run_ends_the_start_with_the_log(
    engines: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "repository"
    for path in (engines / "repository").rglob("*"):
        if path.is_file():
            target = broken / path.relative_to(engines / "repository")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (broken / "ois_decoder" / "1" / "model.onnx").write_bytes(b"nonsense")
    before = left_in_shared_memory(os.getpid())
    with pytest.raises(EngineError, match=r"ONNX Runtime [0-9.]+ cannot load"):
        EmbeddedServer(broken, SMALL).start()
    assert left_in_shared_memory(os.getpid()) == before


# -- probes ------------------------------------------------------------------------------------


def test_a_probe_is_a_click(server: EmbeddedServer) -> None:
    probe_click(server.options.host, server.ports.http)
    assert probe_info(server.options.host, server.ports.http)["network"] == "tiny-test"


def test_a_probe_of_nothing_says_so() -> None:
    ports = choose_ports(ServerOptions())
    for probe in (probe_click, probe_info):
        with pytest.raises(OISError, match="nothing answers"):
            probe("127.0.0.1", ports.http, timeout_s=1)


def test_the_command_is_shown_without_its_secrets(engines: Path) -> None:
    server = EmbeddedServer(engines, ServerOptions(token="open-sesame"))
    text = server.printable_command()
    assert "tritonserver" in text
    assert "--grpc-address=127.0.0.1" in text
    assert "open-sesame" not in text
    assert "$OIS_TOKEN" in text
    assert np.array_equal(sorted(server.models)[:2], ["ois_decoder", "ois_encode"])


@pytest.mark.parametrize("more", [[], ["--allow-client-shm"]])
def test_shared_memory_is_closed_unless_it_is_asked_for(engines: Path, more: list[str]) -> None:
    words = ["serve", f"--engines={engines}", "--print-command", "--cache-bytes=1000000", *more]
    command = [sys.executable, "-m", "ois_cli.main", *words]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "model-repository" in shown
    assert ("shared-memory" in shown) == (not more)


def test_a_gpu_that_the_engines_do_not_use_is_mentioned(
    engines: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def said(folder: Path) -> str:
        words = ["serve", f"--engines={folder}", "--print-command", "--cache-bytes=1000000"]
        assert main(words) == 0
        return capsys.readouterr().err

    found = Gpu("NVIDIA H200", 90, 141 * 2**30, (13, 1))
    monkeypatch.setattr(driver, "probe", lambda: found)
    line = "NVIDIA H200 is not used: these engines run on the CPU. --device cuda uses it\n"
    assert said(engines) == line

    plans = write_engines(tmp_path)
    manifest = Manifest.load(plans)
    named = {}
    for role in ("encoder", "decoder"):
        (plans / f"{role}.onnx").rename(plans / f"{role}.plan")
        named[role] = dataclasses.replace(getattr(manifest, role), file=f"{role}.plan")
    manifest = dataclasses.replace(manifest, **named)
    manifest.save(plans)
    write_repository(plans, manifest)
    assert said(plans) == ""

    monkeypatch.setattr(driver, "LIBRARY", "libnothing.so.1")
    monkeypatch.setattr(driver, "probe", probe_driver)
    assert said(engines) == ""
