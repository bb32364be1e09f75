"""What `ois cluster` accepts, and what it says about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ois_client.contract.errors import InvalidInput
from ois_runtime.edge.settings import (
    EdgeSettings,
    Listen,
    Replica,
    parse_replicas,
    read_replicas,
    read_tokens,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.5", Replica("10.0.0.5", 8000, 8001)),
        ("gpu-1.example.org", Replica("gpu-1.example.org", 8000, 8001)),
        ("127.0.0.1:18000:18001", Replica("127.0.0.1", 18000, 18001)),
        ("[::1]:1:2", Replica("::1", 1, 2)),
    ],
)
def test_a_replica_is_a_host_and_two_ports(text: str, expected: Replica) -> None:
    assert Replica.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "HOST or HOST:HTTP_PORT:GRPC_PORT"),
        ("10.0.0.5:8000", "HOST or HOST:HTTP_PORT:GRPC_PORT"),
        ("http://10.0.0.5", "HOST or HOST:HTTP_PORT:GRPC_PORT"),
        ("a b", "HOST or HOST:HTTP_PORT:GRPC_PORT"),
        ("a:0:1", "the port 0"),
        ("a:1:65536", "the port 65536"),
        ("a:1:1", "expected two"),
    ],
)
def test_what_is_no_replica_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        Replica.parse(text)


def test_replicas_are_given_once_and_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="got no replica"):
        parse_replicas([])
    with pytest.raises(InvalidInput, match="a:8000:8001 twice"):
        parse_replicas(["a", "b", "a:8000:8001"])
    file = tmp_path / "replicas.txt"
    file.write_text("# rack 1\n10.0.0.5  # the fast one\n\n10.0.0.6:1:2\n")
    assert read_replicas(file) == (Replica("10.0.0.5"), Replica("10.0.0.6", 1, 2))
    file.write_text("# nobody\n")
    with pytest.raises(InvalidInput, match=r"replicas\.txt: got no replica"):
        read_replicas(file)
    with pytest.raises(InvalidInput, match=r"none\.txt cannot be read"):
        read_replicas(tmp_path / "none.txt")


def test_a_file_of_tokens_is_not_empty(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("one\ntwo\n")
    assert read_tokens(file) == ("one", "two")
    file.write_text("\n")
    with pytest.raises(InvalidInput, match="is empty"):
        read_tokens(file)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_tokens(tmp_path / "none")


@pytest.mark.parametrize("text", ["8000", "localhost:8000", "127.0.0.1:0", "127.0.0.1:70000"])
def test_an_address_to_listen_on_is_an_ip_address_and_a_port(text: str) -> None:
    with pytest.raises(InvalidInput):
        Listen.parse(text)
    assert str(Listen.parse("[::1]:80")) == "[::1]:80"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"tokens": ("a b",)}, "a token"),
        ({"tokens": ("a", "a")}, "a token twice"),
        ({"certificate": Path("c.pem")}, "expected both"),
        ({"admin": Listen("0.0.0.0", 9901)}, "loopback"),
        ({"balance_percent": 99}, "100 or more"),
        ({"health_interval_s": 0.0}, "health_interval_s"),
        ({"health_timeout_s": float("nan")}, "health_timeout_s"),
        ({"unhealthy_after": 0}, "unhealthy_after"),
        ({"max_requests": 0}, "max_requests"),
        ({"probe": (0, 4)}, "probe"),
        ({"memory_bytes": 2**20}, "128 MiB"),
        ({"http": Listen("127.0.0.1", 1), "grpc": Listen("127.0.0.1", 1)}, "different ports"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        EdgeSettings(**given)
