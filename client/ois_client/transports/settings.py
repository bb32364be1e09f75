"""How a client talks to a server: deadlines, retries, TLS. Frozen, keyword-only."""

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
    """Seconds until `DeadlineExceeded`, retries and pauses between them included.

    connect_s: until the server has described itself (then `ServerUnavailable`).
    click_s, encode_s: for one click, and to send and encode one image. A click on an image
    that the server has lost is sent again with it, and then has the sum of both.
    keepalive_s: pause between pings while a gRPC call waits. Triton closes connections that
    ping too often; below 60 needs its `--grpc-http2-min-recv-ping-interval-without-data`.
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
    """Another try when nothing answers or the server is overloaded, and only then.

    That is safe because clicks and encodes change nothing on the server but its cache. A
    request that is wrong stays wrong, and a deadline is over: neither is tried again.

    attempts: tries in all; 1 never repeats. backoff_s: the first pause, doubled for each
    further one up to max_backoff_s; each is shortened at random by up to a half, so that many
    clients do not come back at once.
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
        """The pauses between tries, one less than `attempts`."""
        for retry in range(self.attempts - 1):
            longest = min(self.max_backoff_s, self.backoff_s * 2**retry)
            yield longest * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """PEM files for `grpcs:` and `https:`.

    ca: who may have signed the server's certificate; None for those the system trusts.
    certificate, key: the client's own, where the server asks for one; both or neither.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidInput("got one of TLS certificate and key; expected both or neither")

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The contents of ca, key and certificate. Raises `InvalidInput` for an unreadable one."""
        return _read(self.ca), _read(self.key), _read(self.certificate)

    def context(self) -> ssl.SSLContext:
        """For HTTP. Raises `InvalidInput` when a file is unreadable or not PEM."""
        import ssl

        self.read()
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            raise InvalidInput(f"got TLS files that are not usable PEM: {error}") from error
        return context


def _read(path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"the TLS file {str(path)!r} cannot be read: {error}") from error
