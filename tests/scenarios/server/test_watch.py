"""The watch distinguishes a busy server from a dead one, and reports when it cannot go on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ois_client import Client
from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError, OISError, ServerOverloaded, ServerUnavailable
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import MaskFormat
from ois_client.wire import click_message, encode_message
from ois_export.tensorrt.profiles import DEFAULT_SHAPES, Shapes
from ois_runtime.embedded import probe as server_probe
from ois_runtime.embedded import server as embedded
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.probe import answers, probe_click, probe_info
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.segmenter import probe_size
from support.server.calls import click_request, eventually, infer, picture
from support.tiny_engines import write_engines

OPTIONS = ServerOptions(cache_bytes=2**24)


# -- a busy server ----------------------------------------------------------------------------


@pytest.fixture
def one_worker(engines: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    monkeypatch.setenv("OIS_CLICK_WORKERS", "1")
    with EmbeddedServer(engines, OPTIONS) as server:
        yield server


def test_the_description_is_answered_while_clicks_wait(one_worker: EmbeddedServer) -> None:
    """The watch asks for it over HTTP and `Client` over gRPC."""
    large = picture(1, 1600, 1200)  # its masks take a while to encode
    request = click_request(large, *([Click(9 * n, 9)] for n in range(32)))
    message = click_message(request, mask_format=MaskFormat.PNG)
    infer(one_worker, encode_message(large))
    with ThreadPoolExecutor(8) as pool:
        clicks = [pool.submit(infer, one_worker, message, timeout_s=120) for _ in range(8)]
        eventually(lambda: any(click.done() for click in clicks), bool)
        assert answers(one_worker.options.host, one_worker.ports.http)
        with Client(one_worker.grpc_url) as client:
            assert client.info.network == "tiny-test"
        assert sum(click.done() for click in clicks) < len(clicks)  # it did not wait for them
        assert all(len(click.result()["MASK_SIZES"]) == 32 for click in clicks)


@pytest.mark.parametrize(
    ("error", "alive"),
    [(None, True), (ServerOverloaded("64 wait"), True), (ServerUnavailable("gone"), False)],
)
def test_a_server_that_refuses_work_is_alive(
    error: OISError | None, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(*_: object, **__: object) -> dict[str, object]:
        if error is not None:
            raise error
        return {}

    monkeypatch.setattr(server_probe, "probe_info", probe)
    assert answers("127.0.0.1", 1) is alive


def test_a_starting_server_that_clients_overload_is_ready(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overloaded(*_: object, **__: object) -> None:
        raise ServerOverloaded("the click queue is full: 64 requests are waiting")

    monkeypatch.setattr(embedded, "probe_click", overloaded)
    server = EmbeddedServer(engines, OPTIONS)
    try:
        server.start()
        assert server.pid is not None
        monkeypatch.undo()
        eventually(lambda: works(server), bool)
        assert works(server)
    finally:
        server.stop()


def works(server: EmbeddedServer) -> bool:
    try:
        probe_click(server.options.host, server.ports.http)
    except OISError:
        return False
    return True


# -- the watch itself --------------------------------------------------------------------------


def test_a_machine_without_processes_left_is_a_typed_error(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    server = EmbeddedServer(engines, OPTIONS)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(EngineError, match=r"no process could be started.*ulimit"):
        server.start()


def test_a_watch_that_cannot_go_on_ends_the_server_with_the_reason(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServer(engines, OPTIONS) as server:
        group = server.pid
        assert group is not None

        def refuse(*_: object, **__: object) -> bool:
            raise OSError(24, "Too many open files")

        # Only this server's: this process watches the servers of other tests too.
        assert server._process is not None
        monkeypatch.setattr(server._process, "runs", refuse)
        with pytest.raises(EngineError, match="Too many open files"):
            server.wait(timeout_s=30)
        assert server.pid is None
        assert not Path(f"/proc/{group}").exists()


# -- the picture of a probe --------------------------------------------------------------------


def manifest_with(folder: Path, names: tuple[str, ...]) -> Manifest:
    """The manifest of engines for a network of 1022 pixels, built for these shapes."""
    options = {"profiles": {"encoder": list(names)}} if names else {}
    return Manifest.load(write_engines(folder, longest=1022, options=options))


@pytest.mark.parametrize("names", [DEFAULT_SHAPES, ("portrait",), ("1022x574",), ("574x1022",)])
def test_a_probe_fits_the_profiles_that_the_engines_were_built_for(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    manifest = manifest_with(tmp_path, names)
    width, height = probe_size(manifest)
    fit = Geometry.fit(width, height, longest=manifest.longest, patch=manifest.patch)
    grid = fit.grid_height, fit.grid_width
    shapes = [Shapes.parse(name, manifest) for name in names]
    assert any(
        all(low <= side <= high for low, side, high in zip(s.lowest, grid, s.highest, strict=True))
        for s in shapes
    )
    assert grid[0] * grid[1] == min(s.lowest[0] * s.lowest[1] for s in shapes)  # the smallest


def test_for_graphs_which_take_any_shape_the_probe_is_one_patch_high(tmp_path: Path) -> None:
    assert probe_size(manifest_with(tmp_path, ())) == (73, 1)


def test_the_server_names_the_probe_s_size_and_for_older_servers_it_is_a_square(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = server.options.host, server.ports.http
    assert probe_info(host, port)["probe"] == [4, 1]
    probe_click(host, port)
    asked = server_probe.picture_size
    sizes: list[tuple[int, int]] = []

    def without(info: dict[str, object]) -> tuple[int, int]:
        sizes.append(asked({name: value for name, value in info.items() if name != "probe"}))
        return sizes[-1]

    monkeypatch.setattr(server_probe, "picture_size", without)
    probe_click(host, port)
    assert sizes == [(4, 4)]
