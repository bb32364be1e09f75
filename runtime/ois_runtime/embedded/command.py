"""The ports and the command line of the embedded server."""

from __future__ import annotations

import secrets
import shlex
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ois_client.contract.errors import EngineError
from ois_client.wire import MODEL
from ois_runtime.embedded.options import TOKEN_HEADER, ServerOptions
from ois_runtime.embedded.staging import Stage
from ois_runtime.front import settings as front

#: Groups of Triton's APIs that need the token, if there is one. Health checks never need it.
TOKEN_APIS = ("inference", "metadata", "model-config", "statistics")
#: Groups closed to all clients: loading a model runs code, and shared memory gives access to this
#: machine's memory.
CLOSED_APIS = ("model-repository", "shared-memory", "trace", "logging")
_SHARED_MEMORY = "shared-memory"
#: Pass the token on to the models, as a parameter of the request: `cache_salt` needs it there.
FORWARD_TOKEN = tuple(
    f"--{protocol}-header-forward-pattern=^(triton-grpc-protocol-)?{TOKEN_HEADER}$"
    for protocol in ("grpc", "http")
)


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that a server listens on. metrics: None if there is no metrics port."""

    grpc: int
    http: int
    metrics: int | None


def choose_ports(options: ServerOptions) -> Ports:
    """The ports that `options` name, and free ports for the others.

    Raises `EngineError` if a named port is in use. (gRPC itself would share it silently.)
    """
    has_metrics = options.token is None or options.metrics_port is not None
    with ExitStack() as bound:  # all stay bound until the last is chosen, so that none repeats
        grpc, http = (
            _bind(bound, options.host, port) for port in (options.grpc_port, options.http_port)
        )
        metrics = _bind(bound, options.host, options.metrics_port) if has_metrics else None
        return Ports(grpc, http, metrics)


def on_sockets(
    stage: Stage, repository: Path, options: ServerOptions, ports: Ports, shm_prefix: str
) -> list[str]:
    """The command that starts the server behind the front (`ois_runtime/front`): it listens on
    Unix sockets. The front asks for the token, so that it is not in the list of processes."""
    socket = f"unix:{stage.sockets}/"
    metrics = [f"--metrics-address={socket}{front.METRICS_SOCKET}"]
    return _command(
        stage,
        repository,
        options,
        [
            f"--grpc-address={socket}{front.GRPC_SOCKET}",
            f"--grpc-port={front.GRPC_PORT}",
            f"--http-address={socket}{front.HTTP_SOCKET}",
            *(metrics if ports.metrics is not None else ["--allow-metrics=false"]),
        ],
        shm_prefix,
        _access_rules(replace(options, token=None), secrets.token_hex(16), ""),
    )


def on_ports(
    stage: Stage, repository: Path, options: ServerOptions, ports: Ports, shm_prefix: str
) -> list[str]:
    """The command that starts the same server by hand, without the front."""
    metrics = [f"--metrics-address={options.host}", f"--metrics-port={ports.metrics}"]
    return _command(
        stage,
        repository,
        options,
        [
            f"--grpc-address={options.host}",
            f"--grpc-port={ports.grpc}",
            f"--http-address={options.host}",
            f"--http-port={ports.http}",
            *(metrics if ports.metrics is not None else ["--allow-metrics=false"]),
        ],
        shm_prefix,
        [],
    )


def _command(
    stage: Stage,
    repository: Path,
    options: ServerOptions,
    addresses: list[str],
    shm_prefix: str,
    access: list[tuple[str, str]],
) -> list[str]:
    return [
        str(stage.wheel.binary),
        f"--model-repository={repository}",
        f"--backend-directory={stage.backends}",
        *_models(options),
        "--disable-auto-complete-config",
        *addresses,
        "--allow-gpu-metrics=false",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        # The default is 1 MiB; larger steps mean fewer mappings for a large feature store.
        f"--backend-config=python,shm-growth-byte-size={16 * 2**20}",
        *(FORWARD_TOKEN if options.cache_salt else ()),
        *(f"{option}={rule}" for option, rule in access),
    ]


def _models(options: ServerOptions) -> list[str]:
    """Load all models, or with a device only `ois_segment`, which then runs the whole network."""
    if not options.device:
        return ["--model-control-mode=none"]
    return ["--model-control-mode=explicit", f"--load-model={MODEL}"]


def printable(words: list[str], options: ServerOptions) -> str:
    """`on_ports` for people to read and copy, with shell variables in place of secrets."""
    secrets_as_variables = (
        f'{option}="{rule}"'
        for option, rule in _access_rules(options, "$RANDOM_SECRET", "$OIS_TOKEN")
    )
    return " \\\n  ".join([*(shlex.quote(word) for word in words), *secrets_as_variables])


def _access_rules(options: ServerOptions, secret: str, token: str) -> list[tuple[str, str]]:
    """Triton's options, with values, for the APIs that are closed or need the token.

    secret: would open the closed APIs, so it is random and never shown.
    """
    closed: tuple[str, ...] = CLOSED_APIS
    with_token: tuple[str, ...] = TOKEN_APIS
    if options.client_shm:
        closed = tuple(name for name in CLOSED_APIS if name != _SHARED_MEMORY)
        with_token = (*TOKEN_APIS, _SHARED_MEMORY)
    rules = [f"{','.join(closed)}:secret={secret}"]
    if options.token is not None:
        rules.append(f"{','.join(with_token)}:{TOKEN_HEADER}={token}")
    return [
        (option, rule)
        for rule in rules
        for option in ("--grpc-restricted-protocol", "--http-restricted-api")
    ]


def _bind(bound: ExitStack, host: str, port: int | None) -> int:
    """Bind the port, or a free one for None, until `bound` is closed. Returns its number."""
    holder = bound.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((host, port or 0))
    except OSError as error:
        raise EngineError(
            f"the address {host}:{port or 'any free port'} cannot be used: {error.strerror}; stop "
            "the program that uses it, or choose another port"
        ) from error
    chosen: int = holder.getsockname()[1]
    return chosen
