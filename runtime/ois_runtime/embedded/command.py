"""The command line of the embedded server, and the ports it listens on."""

from __future__ import annotations

import ipaddress
import math
import secrets
import shlex
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.wire import MODEL
from ois_runtime.embedded.staging import Stage
from ois_runtime.embedded.token import check_token
from ois_runtime.engines.base import EngineBackend, EngineOptions

#: gRPC's and HTTP's names of what an outsider could do; all of Triton's but health.
WITH_TOKEN = ("inference", "metadata", "model-config", "statistics")
#: Never for clients: loading a model runs code, shared memory reads this machine's.
CLOSED = ("model-repository", "shared-memory", "trace", "logging")
_SHARED_MEMORY = "shared-memory"

_TOKEN_HEADER = "authorization"
_LOOPBACK_ONLY = (
    "the embedded server is for this machine only: its release has known crashes on hostile "
    "requests and no TLS on HTTP. Put a proxy in front (see the page on operations), or serve "
    "from NVIDIA's container"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the embedded server runs. Raises `InvalidInput` for what cannot be.

    host: a loopback address. Ports: None takes a free one.
    token: clients must send it; None lets every process of this machine click. With a token
    there is no metrics port unless one is named, since Triton cannot guard it.
    device: runs the network there with PyTorch, in one process, instead of the engine models:
    `cuda`, `cuda:1`, `cpu`. precision: of it, see `EngineOptions`; "" is the device's usual one.
    checkpoint: the network's file, see `torch_checkpoint`; None looks for it.
    cache_bytes: memory of the feature store: in /dev/shm, None takes what suits the machine; with
    a device, that device's, None takes 2 GiB.
    ttl_s: seconds after which an image that nobody clicks on is forgotten.
    client_shm: clients may hand over pictures through this machine's shared memory
    (`shared_memory=True` of a client); whoever may click can then have the server read any of it.
    exit_timeout_s: how long requests in flight may take when the server stops; longer than
    the slowest, as this release crashes when it expires.
    """

    host: str = "127.0.0.1"
    grpc_port: int | None = None
    http_port: int | None = None
    metrics_port: int | None = None
    token: str | None = None
    device: str = ""
    precision: str = ""
    checkpoint: Path | None = None
    cache_bytes: int | None = None
    ttl_s: float = math.inf
    client_shm: bool = False
    start_timeout_s: float = 120.0
    exit_timeout_s: int = 60

    def __post_init__(self) -> None:
        _check_host(self.host)
        for port in (self.grpc_port, self.http_port, self.metrics_port):
            if port is not None and not 1 <= port <= 65535:
                raise InvalidInput(f"got the port {port}; expected 1 to 65535")
        if self.token is not None:
            check_token(self.token)
        if self.device:
            options = EngineOptions(device=self.device, precision=self.precision or "f32")
            options.check(EngineBackend.TORCH)
        elif self.precision or self.checkpoint:
            raise InvalidInput(
                "got a precision or a checkpoint without a device; expected --device cuda (or cpu) "
                "with them: Triton's engine models have a precision of their own"
            )
        if self.cache_bytes is not None and self.cache_bytes < 1:
            raise InvalidInput(f"got cache_bytes = {self.cache_bytes}; expected 1 or more")
        if not self.ttl_s > 0:
            raise InvalidInput(f"got ttl_s = {self.ttl_s}; expected more than 0 seconds")
        if self.exit_timeout_s < 1:
            raise InvalidInput(f"got exit_timeout_s = {self.exit_timeout_s}; expected 1 or more")


@dataclass(frozen=True, slots=True)
class Ports:
    """metrics: None when there is no metrics port."""

    grpc: int
    http: int
    metrics: int | None


def choose_ports(options: ServerOptions) -> Ports:
    """Named ports, checked to be free, and free ones for the rest.

    Raises `EngineError` when a named port is taken: gRPC would share it without a word.
    """
    wants_metrics = options.token is None or options.metrics_port is not None
    with ExitStack() as held:  # until all are chosen, so that none is given out twice
        grpc, http = (
            _hold(held, options.host, port) for port in (options.grpc_port, options.http_port)
        )
        metrics = _hold(held, options.host, options.metrics_port) if wants_metrics else None
        return Ports(grpc, http, metrics)


def command(
    stage: Stage, repository: Path, options: ServerOptions, ports: Ports, shm_prefix: str
) -> list[str]:
    """What starts the server, ready for `subprocess`."""
    metrics = [f"--metrics-address={options.host}", f"--metrics-port={ports.metrics}"]
    doors = _doors(options, secrets.token_hex(16), options.token or "")
    return [
        str(stage.wheel.binary),
        f"--model-repository={repository}",
        f"--backend-directory={stage.backends}",
        *_models(options),
        "--disable-auto-complete-config",
        f"--grpc-address={options.host}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={options.host}",
        f"--http-port={ports.http}",
        *(metrics if ports.metrics is not None else ["--allow-metrics=false"]),
        "--allow-gpu-metrics=false",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        # New memory comes in pieces of this size instead of 1 MiB: fewer mappings for a store.
        f"--backend-config=python,shm-growth-byte-size={16 * 2**20}",
        *(f"{option}={rule}" for option, rule in doors),
    ]


def _models(options: ServerOptions) -> list[str]:
    """Which models to load: all, or the one that holds the whole network."""
    if not options.device:
        return ["--model-control-mode=none"]
    return ["--model-control-mode=explicit", f"--load-model={MODEL}"]


def printable(words: list[str], options: ServerOptions) -> str:
    """The command for a person to read and copy: secrets are left out."""
    shown = (word for word in words if "restricted" not in word)
    secrets_as_variables = (
        f'{option}="{rule}"' for option, rule in _doors(options, "$RANDOM_SECRET", "$OIS_TOKEN")
    )
    return " \\\n  ".join([*(shlex.quote(word) for word in shown), *secrets_as_variables])


def token_header(token: str | None) -> dict[str, str]:
    """The HTTP header a request needs. gRPC has the same under `triton-grpc-protocol-...`."""
    return {} if token is None else {_TOKEN_HEADER: token}


def _doors(options: ServerOptions, secret: str, token: str) -> list[tuple[str, str]]:
    """Triton's options and rules: what is closed to everybody, and what needs the token.

    secret: opens what is closed, so nobody may know it.
    """
    closed: tuple[str, ...] = CLOSED
    with_token: tuple[str, ...] = WITH_TOKEN
    if options.client_shm:
        closed = tuple(name for name in CLOSED if name != _SHARED_MEMORY)
        with_token = (*WITH_TOKEN, _SHARED_MEMORY)
    rules = [f"{','.join(closed)}:secret={secret}"]
    if options.token is not None:
        rules.append(f"{','.join(with_token)}:{_TOKEN_HEADER}={token}")
    return [
        (option, rule)
        for rule in rules
        for option in ("--grpc-restricted-protocol", "--http-restricted-api")
    ]


def _check_host(host: str) -> None:
    try:
        loopback = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        raise InvalidInput(
            f"got the address {host!r}; expected an IPv4 loopback address such as 127.0.0.1"
        ) from None
    if not loopback:
        raise InvalidInput(
            f"got the address {host}; expected a loopback address such as 127.0.0.1: "
            f"{_LOOPBACK_ONLY}"
        )


def _hold(held: ExitStack, host: str, port: int | None) -> int:
    holder = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((host, port or 0))
    except OSError as error:
        raise EngineError(
            f"the address {host}:{port or 'any free port'} cannot be used: {error.strerror}; stop "
            "what listens there, or choose another port"
        ) from error
    chosen: int = holder.getsockname()[1]
    return chosen
