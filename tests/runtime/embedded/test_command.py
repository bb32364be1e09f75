"""Options, ports and command line of the embedded server."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ois_client.contract.errors import EngineError, InvalidInput
from ois_export.repository import write_repository
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.embedded.staging import repository_of
from ois_runtime.engines.manifest import Manifest
from support.server.processes import needs_server
from support.tiny_engines import write_engines


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine folder with its model repository."""
    folder = write_engines(tmp_path_factory.mktemp("engines"))
    write_repository(folder, Manifest.load(folder))
    return folder


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "8.8.8.8"])
def test_addresses_of_other_machines_are_refused_with_the_reason(host: str) -> None:
    with pytest.raises(InvalidInput, match="no TLS over HTTP"):
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
        {"cache_salt": "tenant"},
        {"ttl_s": float("nan")},
        {"exit_timeout_s": 0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="got"):
        ServerOptions(**wrong)  # type: ignore[arg-type]


@needs_server
def test_a_port_in_use_is_named(engines: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f":{port} cannot be used"):
            EmbeddedServer(engines, ServerOptions(grpc_port=port))


@needs_server
def test_a_folder_without_a_repository_names_the_export(tmp_path: Path, engines: Path) -> None:
    assert repository_of(engines) == repository_of(engines / "repository")
    with pytest.raises(EngineError, match="ois export"):
        EmbeddedServer(tmp_path)


@needs_server
def test_the_command_is_shown_without_its_secrets(engines: Path) -> None:
    server = EmbeddedServer(engines, ServerOptions(token="open-sesame"))
    text = server.printable_command()
    assert "tritonserver" in text
    assert "--grpc-address=127.0.0.1" in text
    assert "open-sesame" not in text
    assert "$OIS_TOKEN" in text
    assert sorted(server.models)[:2] == ["ois_decoder", "ois_encode"]
