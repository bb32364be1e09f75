"""A server, a gateway and a browser for the tests of the demo's page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ois_client.sessions.client import Client
from ois_client.sessions.session import Session
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.local import LocalTransport

# Imported in the fixtures, because playwright may be missing.
if TYPE_CHECKING:
    from ois_cli.demo.gateway.server import Gateway
    from support.demo.page import DemoPage

    OpenPage = Callable[..., DemoPage]

WIDTH, HEIGHT = 112, 84


@pytest.fixture(scope="module")
def mortal(engines: Path) -> Iterator[EmbeddedServer]:
    """A server that only one file uses, so that its tests may kill it."""
    with EmbeddedServer(engines, ServerOptions(cache_bytes=64 * 2**20)) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(mortal: EmbeddedServer) -> Iterator[Gateway]:
    from ois_cli.demo.gateway.server import Gateway

    with Gateway(mortal.grpc_url, where="Triton on this machine", port=0) as running:
        yield running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A file's tests run in the browsers that it names in BROWSERS, by default in Chromium."""
    if "browser_name" not in metafunc.fixturenames:
        return
    from support.demo.page import chromium, firefox

    places = {"chromium": chromium(), "firefox": firefox()}
    packages = {"chromium": "chromium", "firefox": "firefox-esr"}
    names = getattr(metafunc.module, "BROWSERS", ("chromium",))
    reason = "this browser is not installed: apt-get install {}"
    choices = [
        pytest.param(
            name,
            marks=pytest.mark.skipif(places[name] is None, reason=reason.format(packages[name])),
        )
        for name in names
    ]
    metafunc.parametrize("browser_name", choices, scope="module")


@pytest.fixture(scope="module")
def browser(browser_name: str) -> Iterator[Any]:
    from support.demo.page import chromium, firefox, open_browser, open_firefox

    program = chromium() if browser_name == "chromium" else firefox()
    assert program is not None
    with (open_browser if browser_name == "chromium" else open_firefox)(program) as opened:
        yield opened


@pytest.fixture
def open_page(browser: Any, gateway: Gateway) -> Iterator[OpenPage]:
    """Opens tabs with separate profiles. Fails at the end if a page has logged errors."""
    from support.demo.page import DemoPage

    pages: list[DemoPage] = []

    def opened(url: str = gateway.url, **options: Any) -> DemoPage:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        pages.append(DemoPage(context.new_page(), url))
        return pages[-1].load()

    yield opened
    for page in pages:
        page.page.context.close()
    assert [complaint for page in pages for complaint in page.complaints] == []


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of a ramp that gets nearer to the right, so depth and masks are easy to predict."""
    ramp = np.tile(np.linspace(60, 200, WIDTH).astype(np.uint8), (HEIGHT, 1))
    path = tmp_path / "ramp.png"
    Image.fromarray(np.dstack((ramp, ramp, 255 - ramp))).save(path)
    return path


@pytest.fixture
def session(local: LocalTransport, photo: Path) -> Session:
    """A session on the same engines in this process, for the expected masks."""
    return Client(local).open(photo)
