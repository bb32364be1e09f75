"""What the front needs to know. It comes as JSON on its stdin, because there is a token in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Names of Triton's sockets in their folder. Triton adds the port to that of gRPC.
GRPC_SOCKET, HTTP_SOCKET, METRICS_SOCKET = "grpc", "http", "metrics"
GRPC_PORT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontSettings:
    """host, grpc, http, metrics: the address and the ports to listen on; metrics None: nowhere.

    sockets: the folder of Triton's sockets, for this user only.
    token: clients must send it; None: nobody must.
    forward_token: pass the token on to the models, for `cache_salt`.
    shared_memory: clients may register shared memory and name it in requests.
    grace_s: seconds that requests in progress may take after SIGTERM.
    """

    host: str
    grpc: int
    http: int
    metrics: int | None
    sockets: Path
    token: str | None = None
    forward_token: bool = False
    shared_memory: bool = False
    grace_s: float = 60.0

    @property
    def grpc_socket(self) -> Path:
        return self.sockets / f"{GRPC_SOCKET}:{GRPC_PORT}"

    @property
    def http_socket(self) -> Path:
        return self.sockets / HTTP_SOCKET

    @property
    def metrics_socket(self) -> Path:
        return self.sockets / METRICS_SOCKET

    @property
    def listening(self) -> Path:
        """A file that the front makes when it listens on all its ports."""
        return self.sockets / "front"

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "sockets": str(self.sockets)})

    @classmethod
    def from_json(cls, text: str | bytes) -> FrontSettings:
        values: Mapping[str, Any] = json.loads(text)
        return cls(**{**values, "sockets": Path(values["sockets"])})
