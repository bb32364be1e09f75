"""A server's address: `grpc://host:8001`, `grpcs://`, `http://host:8000/base`, `https://`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ois_client.contract.errors import InvalidInput

#: scheme -> the port of Triton, or of a proxy with TLS in front of it
DEFAULT_PORTS = {"grpc": 8001, "grpcs": 443, "http": 8000, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """host: without brackets, also for IPv6. path: for HTTP only, "" or "/..." without a final
    slash."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `InvalidInput` if `url` is not scheme://host[:port][/path]."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _wrong(url, str(error)) from error
        path = parts.path.rstrip("/")
        if parts.scheme not in DEFAULT_PORTS:
            raise _wrong(url, f"the scheme is none of {[*DEFAULT_PORTS]}")
        if not parts.hostname or any(c.isspace() for c in url):
            raise _wrong(url, "there is no host")
        if parts.username is not None or parts.query or parts.fragment:
            raise _wrong(url, "a user, query or fragment is not supported; see token=...")
        if path and parts.scheme.startswith("grpc"):
            raise _wrong(url, "gRPC has no path")
        return cls(parts.scheme, parts.hostname, port or DEFAULT_PORTS[parts.scheme], path)

    @property
    def secure(self) -> bool:
        return self.scheme in ("grpcs", "https")

    @property
    def target(self) -> str:
        """host:port, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.target}{self.path}"


def _wrong(url: str, why: str) -> InvalidInput:
    return InvalidInput(f"got the address {url!r}: {why}; expected for example grpc://host:8001")


def is_server(url: str) -> bool:
    """Whether the address has the scheme of a server."""
    return url.partition(":")[0] in DEFAULT_PORTS
