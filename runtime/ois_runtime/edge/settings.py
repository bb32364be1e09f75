"""What an Envoy in front of replicas is told: their addresses, where it listens, and its limits."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ois_client.contract.errors import InvalidInput
from ois_runtime.embedded.options import check_token

HTTP_PORT = 8000
GRPC_PORT = 8001

_REPLICA = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<http>[0-9]{1,5}):(?P<grpc>[0-9]{1,5}))?"
)
_LISTEN = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Replica:
    """One server. host: a name or an IP address, without brackets."""

    host: str
    http_port: int = HTTP_PORT
    grpc_port: int = GRPC_PORT

    @classmethod
    def parse(cls, text: str) -> Replica:
        """Read HOST or HOST:HTTP_PORT:GRPC_PORT. Raises `InvalidInput`."""
        found = _REPLICA.fullmatch(text)
        if found is None:
            raise InvalidInput(
                f"got the replica {text!r}; expected HOST or HOST:HTTP_PORT:GRPC_PORT, such as "
                "10.0.0.5, gpu-1.example.org or 127.0.0.1:8000:8001 (IPv6 in brackets)"
            )
        host = found["host"].strip("[]")
        http, grpc = int(found["http"] or HTTP_PORT), int(found["grpc"] or GRPC_PORT)
        for port in (http, grpc):
            _check_port(port, text)
        if http == grpc:
            raise InvalidInput(f"got one port for HTTP and gRPC in {text!r}; expected two")
        return cls(host, http, grpc)

    @property
    def name(self) -> str:
        """What is hashed: the same for both ports, and whatever the host's IP address is."""
        return f"{self.host}:{self.http_port}:{self.grpc_port}"


def parse_replicas(texts: Sequence[str]) -> tuple[Replica, ...]:
    """Raises `InvalidInput` if there is none, one is invalid, or one is given twice."""
    if not texts:
        raise InvalidInput("got no replica; expected the address of one or more servers")
    replicas = tuple(map(Replica.parse, texts))
    for replica in replicas:
        if replicas.count(replica) > 1:
            raise InvalidInput(f"got the replica {replica.name} twice; expected each once")
    return replicas


def read_replicas(file: Path) -> tuple[Replica, ...]:
    """The replicas in a text file, one per line; `#` begins a comment.

    Raises `InvalidInput` with the file's name if it cannot be read or a line is invalid.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the file of replicas {file} cannot be read ({error}); expected a text file with an "
            "address per line"
        ) from error
    texts = [text for line in lines if (text := line.partition("#")[0].strip())]
    try:
        return parse_replicas(texts)
    except InvalidInput as error:
        raise InvalidInput(f"the file of replicas {file}: {error}") from error


def read_tokens(file: Path) -> tuple[str, ...]:
    """The tokens in a text file, one per line. Raises `InvalidInput` with the file's name."""
    try:
        tokens = tuple(file.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the file of tokens {file} cannot be read ({error}); expected a text file with a "
            "token per line"
        ) from error
    if not tokens:
        raise InvalidInput(f"the file of tokens {file} is empty; expected a token per line")
    return tokens


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Listen:
        """Read HOST:PORT. Raises `InvalidInput`."""
        found = _LISTEN.fullmatch(text)
        if found is None:
            raise InvalidInput(
                f"got the address {text!r}; expected HOST:PORT, such as 0.0.0.0:8000"
            )
        host, port = found["host"].strip("[]"), int(found["port"])
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise InvalidInput(
                f"got the address {text!r}; expected an IP address to listen on, such as "
                "127.0.0.1 or 0.0.0.0"
            ) from None
        _check_port(port, text)
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """How Envoy stands in front of the replicas.

    http, grpc: where clients connect. stats: where `/ready` and Envoy's metrics are; None: nowhere.
    admin: Envoy's administration, a path of a Unix socket or a loopback address. Whoever reaches
    it controls Envoy.
    tokens: clients must send one of them; () lets everyone in. The first is also sent with health
    checks, because a replica may require it.
    certificate, key: PEM files; clients then need TLS. They are read by Envoy when it starts.
    balance_percent: a replica gets at most this share of the average number of requests in
    progress; requests above it go to another replica, which must encode the image.
    health_interval_s, health_timeout_s, unhealthy_after: a replica is left out after this many
    health checks in a row without an answer, and comes back with the first good one.
    probe: (width, height) in pixels of the picture that a health check clicks on.
    max_connections: of clients. max_requests: in progress at one port. memory_bytes: of Envoy's
    heap; requests are refused near it.
    access_log: a file, or /dev/stdout; "" writes none.
    """

    http: Listen = Listen("127.0.0.1", HTTP_PORT)
    grpc: Listen = Listen("127.0.0.1", GRPC_PORT)
    stats: Listen | None = None
    admin: Path | Listen = Path("admin.sock")
    tokens: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    balance_percent: int = 200
    health_interval_s: float = 5.0
    health_timeout_s: float = 10.0
    unhealthy_after: int = 2
    probe: tuple[int, int] = (64, 64)
    max_connections: int = 4096
    max_requests: int = 1024
    memory_bytes: int = 2 * 2**30
    access_log: str = ""

    def __post_init__(self) -> None:
        for token in self.tokens:
            check_token(token)
        if len(set(self.tokens)) < len(self.tokens):
            raise InvalidInput("got a token twice; expected each once")
        if (self.certificate is None) != (self.key is None):
            raise InvalidInput("got one of certificate and key; expected both, or neither")
        if isinstance(self.admin, Listen) and not ipaddress.ip_address(self.admin.host).is_loopback:
            raise InvalidInput(
                f"got the admin address {self.admin}; expected a loopback address, because whoever "
                "reaches it controls Envoy"
            )
        if self.balance_percent < 100:
            raise InvalidInput(f"got a balance of {self.balance_percent} %; expected 100 or more")
        for name in ("health_interval_s", "health_timeout_s"):
            if not getattr(self, name) >= 0.1:
                raise InvalidInput(f"got {name} = {getattr(self, name)}; expected 0.1 s or more")
        for name in ("unhealthy_after", "max_connections", "max_requests"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"got {name} = {getattr(self, name)}; expected 1 or more")
        if not all(1 <= side <= 4096 for side in self.probe):
            raise InvalidInput(
                f"got a probe of {self.probe[0]} x {self.probe[1]} pixels; expected 1 to 4096"
            )
        if self.memory_bytes < 128 * 2**20:
            raise InvalidInput(
                f"got {self.memory_bytes} bytes of memory; expected 128 MiB or more, because a "
                "request alone may have 72 MiB"
            )
        listens = [one for one in (self.http, self.grpc, self.stats, self.admin) if one]
        if len(set(listens)) < len(listens):
            raise InvalidInput("got the same address for two purposes; expected different ports")


def _check_port(port: int, text: str) -> None:
    if not 1 <= port <= 65535:
        raise InvalidInput(f"got the port {port} in {text!r}; expected 1 to 65535")
