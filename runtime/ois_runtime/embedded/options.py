"""Options of the embedded server, and the token that its clients must send.

Every way to start a server, and the health checks, read the token by the rules here. A token file
that holds no valid token is an error, because without a token the server would be open.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ois_client.contract.errors import InvalidInput
from ois_runtime.engines.backends import EngineBackend, EngineOptions, Precision

TOKEN = "OIS_TOKEN"
TOKEN_FILE = "OIS_TOKEN_FILE"
TOKEN_HEADER = "authorization"

#: The command line of a Triton started by hand uses these characters to separate rules.
_SEPARATORS = frozenset(" ,:=")

_LOOPBACK_ONLY = (
    "the embedded server accepts connections from this machine only, because it has no TLS over "
    "HTTP or gRPC. Put a proxy in front of it "
    "(docs/serving.md of the repository), or serve from NVIDIA's container"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Options of the embedded server. Raises `InvalidInput` if a value is not possible.

    host: a loopback address.
    grpc_port, http_port, metrics_port: None takes a free port.
    token: clients must send it; None lets every process of this machine send requests, but no web
    page. With a token there is no metrics port unless one is given, because it needs none.
    device: `cuda`, `cuda:1` or `cpu` runs the network with PyTorch on this device, in one process;
    "" runs Triton's engine models.
    precision: of the network on `device`, see `EngineOptions`; "" is the device's default.
    checkpoint: the network's weights for `device`; None looks for the file that the engines name.
    cache_bytes: memory of the feature store, in /dev/shm or on `device`. None chooses a size for
    this machine, and 2 GiB with a device.
    ttl_s: seconds without a click after which an image's features are dropped.
    cache_salt: `token` keeps the features of every token apart, for a proxy that checks several
    tokens; "" shares them.
    longest: longest side of the network's images, instead of the exported one (`Manifest.at`).
    client_shm: let clients send images through this machine's shared memory (`shared_memory=True`
    of a client). Clients that may click can then make the server read what Python programs of its
    user have in shared memory (names that begin with psm_).
    start_timeout_s: seconds until the server must have answered a click.
    exit_timeout_s: seconds that requests in progress may take when the server stops. Choose more
    than the slowest request needs: this Triton release crashes when the time is over.
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
    cache_salt: str = ""
    longest: int | None = None
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
            options = EngineOptions(
                device=self.device, precision=Precision.parse(self.precision or "fp32")
            )
            options.check(EngineBackend.TORCH)
        elif self.precision or self.checkpoint:
            raise InvalidInput(
                "got a precision or a checkpoint without a device; expected --device cuda (or cpu) "
                "with them, because exported engines have a fixed precision"
            )
        if self.cache_bytes is not None and self.cache_bytes < 1:
            raise InvalidInput(f"got cache_bytes = {self.cache_bytes}; expected 1 or more")
        if not self.ttl_s > 0:
            raise InvalidInput(f"got ttl_s = {self.ttl_s}; expected more than 0 seconds")
        if self.cache_salt not in ("", "token"):
            raise InvalidInput(f"got cache_salt = {self.cache_salt!r}; expected token or nothing")
        if self.exit_timeout_s < 1:
            raise InvalidInput(f"got exit_timeout_s = {self.exit_timeout_s}; expected 1 or more")


def check_token(token: str) -> None:
    """Raises `InvalidInput` if the token is empty or Triton's command line cannot express it."""
    if not (token.isascii() and token.isprintable()):
        raise InvalidInput("got a token with characters outside printable ASCII; choose another")
    if not token or set(token) & _SEPARATORS:
        raise InvalidInput(
            "got a token that is empty or contains a space or one of , : =; choose another"
        )


def read_token_file(file: Path) -> str:
    """The token in a file, without surrounding whitespace.

    Raises `InvalidInput` with the file's name if it cannot be read or holds no valid token.
    """
    try:
        token = file.read_text(encoding="utf-8").strip()
        check_token(token)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the token file {file} cannot be read ({error}); expected a text file with the token. "
            f"Without a token, leave {TOKEN_FILE} unset"
        ) from error
    except InvalidInput as error:
        raise InvalidInput(f"the token file {file}: {error}") from error
    return token


def token_from_environment(environment: Mapping[str, str]) -> str | None:
    """The token that `OIS_TOKEN_FILE` or else `OIS_TOKEN` gives; None if neither is set.

    Raises `InvalidInput` if the token is not valid or the file cannot be read.
    """
    if file := environment.get(TOKEN_FILE):
        return read_token_file(Path(file))
    token = environment.get(TOKEN) or None
    if token is not None:
        check_token(token)
    return token


def token_header(token: str | None) -> dict[str, str]:
    """The HTTP header that carries the token. gRPC uses `triton-grpc-protocol-authorization`."""
    return {} if token is None else {TOKEN_HEADER: token}


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
