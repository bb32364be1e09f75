"""Settings of the connection to a server: timeouts, retries, TLS. Frozen, keyword-only."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds until `DeadlineExceeded`, including retries and the pauses between them.

    connect_s: until the server has answered its first request; raises `ServerUnavailable`.
    click_s, encode_s: for one click, and to send and encode one image. A click on an image that
    the server has dropped is sent again together with the image; it then has the sum of both.
    keepalive_s: interval between pings while a gRPC call waits. Triton closes connections that
    ping too often; less than 60 s needs its option
    `--grpc-http2-min-recv-ping-interval-without-data`.
    """

    connect_s: float = 5.0
    click_s: float = 30.0
    encode_s: float = 120.0
    keepalive_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("connect_s", "click_s", "encode_s", "keepalive_s"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InvalidInput(f"got {name} = {value}; expected a number of seconds above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """When to repeat a request: only if the server does not answer or is overloaded.

    Repeating is safe because clicks and encodes change nothing on the server but its cache. An
    invalid request or a missed deadline is not repeated.

    attempts: the largest number of attempts; 1 means no retries. backoff_s: the first pause. Each
    further pause is twice as long, up to max_backoff_s, and is shortened at random by up to half,
    so that many clients do not all return at once.
    """

    attempts: int = 4
    backoff_s: float = 0.2
    max_backoff_s: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidInput(f"got attempts = {self.attempts}; expected at least 1")
        if not 0 <= self.backoff_s <= self.max_backoff_s < math.inf:
            raise InvalidInput(
                f"got backoff_s = {self.backoff_s} and max_backoff_s = {self.max_backoff_s}; "
                "expected 0 <= backoff_s <= max_backoff_s"
            )

    def pauses_s(self) -> Iterator[float]:
        """Yield the pauses between attempts, one fewer than `attempts`."""
        for retry in range(self.attempts - 1):
            longest = min(self.max_backoff_s, self.backoff_s * 2**retry)
            yield longest * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """PEM files for `grpcs:` and `https:`.

    ca: the authorities that may sign the server's certificate; None: those the system trusts.
    certificate, key: of the client, if the server asks for them; both or neither.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidInput("got one of TLS certificate and key; expected both or neither")

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return the contents of ca, key and certificate, None for each that is not set.

        Raises `InvalidInput` if a file cannot be read.
        """
        return _read(self.ca), _read(self.key), _read(self.certificate)

    def context(self) -> ssl.SSLContext:
        """Return the context for HTTP. Raises `InvalidInput` if a file is unreadable or not PEM."""
        import ssl

        self.read()
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            raise InvalidInput(
                f"got TLS files that cannot be used: {error}; expected PEM"
            ) from error
        return context


def _read(path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"the TLS file {str(path)!r} cannot be read: {error}") from error
