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

from ois_client.errors import EngineError, InvalidInput
from ois_client.wire import MODEL
from ois_runtime.engines import EngineBackend, EngineOptions
from ois_runtime.server_token import check_token
from ois_runtime.staging import Stage

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
        *_restrictions(options),
    ]


def _models(options: ServerOptions) -> list[str]:
    """Which models to load: all, or the one that holds the whole network."""
    if not options.device:
        return ["--model-control-mode=none"]
    return ["--model-control-mode=explicit", f"--load-model={MODEL}"]


def printable(words: list[str], options: ServerOptions) -> str:
    """The command for a person to read and copy: secrets are left out."""
    shown = (word for word in words if "restricted" not in word)
    text = " \\\n  ".join(shlex.quote(word) for word in shown)
    closed, with_token = (",".join(names) for names in _doors(options))
    text += f' \\\n  --grpc-restricted-protocol="{closed}:secret=$RANDOM_SECRET"'
    text += f' \\\n  --http-restricted-api="{closed}:secret=$RANDOM_SECRET"'
    if options.token is not None:
        text += f' \\\n  --grpc-restricted-protocol="{with_token}:{_TOKEN_HEADER}=$OIS_TOKEN"'
        text += f' \\\n  --http-restricted-api="{with_token}:{_TOKEN_HEADER}=$OIS_TOKEN"'
    return text


def token_header(token: str | None) -> dict[str, str]:
    """The HTTP header a request needs. gRPC has the same under `triton-grpc-protocol-...`."""
    return {} if token is None else {_TOKEN_HEADER: token}


def _doors(options: ServerOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is closed to everybody, and what is open to those who have the token."""
    if not options.client_shm:
        return CLOSED, WITH_TOKEN
    return tuple(name for name in CLOSED if name != _SHARED_MEMORY), (*WITH_TOKEN, _SHARED_MEMORY)


def _restrictions(options: ServerOptions) -> list[str]:
    closed, with_token = _doors(options)
    groups = [(closed, f"secret={secrets.token_hex(16)}")]  # known to nobody
    if options.token is not None:
        groups.append((with_token, f"{_TOKEN_HEADER}={options.token}"))
    return [
        f"--{option}={','.join(names)}:{rule}"
        for names, rule in groups
        for option in ("grpc-restricted-protocol", "http-restricted-api")
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
