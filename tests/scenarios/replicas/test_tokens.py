"""A server with a token: clicks with it, and nothing but health without; also through TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ois_client import Client
from ois_client.contract.errors import AccessDenied, OISError, ServerUnavailable
from ois_client.transports.settings import TLS, Retries, Timeouts
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import get
from support.server.nginx import Proxy, needs_nginx, nginx_before
from support.server.players import Player, pixels
from support.server.tls import self_signed

TOKEN = "open-sesame"
ONCE = Retries(attempts=1)


@pytest.fixture(scope="module")
def guarded(engines: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(engines, ServerOptions(token=TOKEN, cache_bytes=2**24)) as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(
    guarded: EmbeddedServer,
    certificate: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    files = ("--certificate", str(certificate[0]), "--key", str(certificate[1]))
    folder = tmp_path_factory.mktemp("nginx")
    with nginx_before([guarded], folder, *files, scheme="s") as proxy:
        yield proxy


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("token", [None, "another"])
def test_nobody_clicks_without_the_token(
    guarded: EmbeddedServer, protocol: str, token: str | None
) -> None:
    with pytest.raises(AccessDenied, match="token=") as refused:
        Client(getattr(guarded, f"{protocol}_url"), token=token)
    assert TOKEN not in str(refused.value)
    assert get(f"{guarded.http_url}/v2/health/ready") == b""


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_with_the_token_everything_works(
    guarded: EmbeddedServer, engines: Path, protocol: str
) -> None:
    url = getattr(guarded, f"{protocol}_url")
    with Client(url, token=TOKEN) as client, Client(f"local:{engines}") as twin:
        player = Player(client, twin, pixels(9500), seed=0)
        assert all(player.click() for _ in range(3))
        player.check()


@needs_nginx
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_token_and_clicks_go_through_tls(
    secure: Proxy, certificate: tuple[Path, Path], engines: Path, protocol: str
) -> None:
    url = getattr(secure, f"{protocol}_url")
    tls = TLS(ca=certificate[0])
    with Client(url, token=TOKEN, tls=tls) as client, Client(f"local:{engines}") as twin:
        player = Player(client, twin, pixels(9501), seed=0)
        assert all(player.click() for _ in range(3))
        player.check()
    with pytest.raises(AccessDenied):
        Client(url, tls=tls)


@needs_nginx
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_certificate_nobody_trusts_is_a_typed_error(secure: Proxy, protocol: str) -> None:
    url = getattr(secure, f"{protocol}_url")
    with pytest.raises(ServerUnavailable):
        Client(url, token=TOKEN, timeouts=Timeouts(connect_s=2), retries=ONCE)
    with pytest.raises(OISError):  # no TLS where TLS is spoken
        Client(url.replace("s:", ":", 1), token=TOKEN, timeouts=Timeouts(connect_s=2), retries=ONCE)
