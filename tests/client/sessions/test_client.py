"""The scheme of an address selects the transport; wrong addresses and servers are explained.

A client opens images without asking for the model again, and follows a restarted server.
"""

import asyncio
import sys
from dataclasses import replace

import numpy as np
import pytest

from ois_client import AsyncClient, Client
from ois_client.contract.errors import EngineError, IncompatibleServer, InvalidImage, InvalidInput
from ois_client.contract.images import ImageLimits
from support.disks import IMAGE, Disks, disks

PLUGIN = """
from support.disks import Disks

def open_transport(address, **options):
    transport = Disks()
    transport.address, transport.options = address, options
    return transport

def needs_a_package(address):
    import package_that_nobody_installed
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A real installed distribution with two transports."""
    info = tmp_path / "disks_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: disks-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ois_client.transports]\n"
        "disks = disks_plugin:open_transport\n"
        "broken = disks_plugin:needs_a_package\n"
    )
    (tmp_path / "disks_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("disks_plugin", None)


@pytest.mark.parametrize(
    ("url", "address"), [("disks:", ""), ("disks:/a/b", "/a/b"), ("disks://host:1/x", "//host:1/x")]
)
@pytest.mark.usefixtures("plugin")
def test_the_scheme_picks_the_transport_and_the_rest_is_its_address(url, address):
    with Client(url, threads=3) as client:
        assert client._transport.address == address
        assert client._transport.options == {"threads": 3}
        assert client.info.network == "disks"
        session = client.open(IMAGE)
        np.testing.assert_array_equal(session.click(20, 20), disks(session.clicks()))
    assert client._transport.closed == 1


@pytest.mark.parametrize("url", ["nowhere:x", "engines", "", ":", "DISKS:"])
@pytest.mark.usefixtures("plugin")
def test_an_unknown_scheme_names_the_known_ones_and_what_to_install(url):
    with pytest.raises(InvalidInput, match=r"'broken', 'disks'.*ois-deploy\[cpu\]"):
        Client(url)


@pytest.mark.usefixtures("plugin")
def test_a_missing_package_is_named_with_the_command_that_installs_it():
    message = r"package_that_nobody_installed.*pip install 'ois-deploy\[all\]'"
    with pytest.raises(EngineError, match=message):
        Client("broken:")


def test_a_transport_can_be_passed_instead_of_an_address():
    transport = Disks()
    with Client(transport) as client:
        assert client.open(IMAGE, encode=False).last_encode is None
    assert transport.closed == 1
    with pytest.raises(InvalidInput, match="threads"):
        Client(transport, threads=3)


def test_engines_of_another_preprocessing_are_refused_and_closed():
    transport = Disks()
    transport.preprocess_version = "0:squashed"
    with pytest.raises(IncompatibleServer, match="'0:squashed'"):
        Client(transport)
    assert transport.closed == 1


def test_image_errors_and_limits_appear_at_open():
    client = Client(Disks(), limits=ImageLimits(max_pixels=100))
    with pytest.raises(InvalidImage, match="limit is 100"):
        client.open(IMAGE)
    with pytest.raises(InvalidImage, match="does not exist"):
        client.open("no-such-file.png")


class Restarted(Disks):
    """A server that counts calls of `info` and can be restarted with another model."""

    def __init__(self):
        super().__init__()
        self.model, self.asked = "a" * 64, 0

    def restart(self):
        self.model, self.longest = "b" * 64, 280
        self.images.clear()

    def info(self):
        self.asked += 1
        return replace(super().info(), model_sha256=self.model)

    def encode(self, picture):
        return replace(super().encode(picture), model_sha256=self.model)

    def click(self, request, picture=None):
        return replace(super().click(request, picture), model_sha256=self.model)


class OnALoop:
    """The same transport for an event loop."""

    def __init__(self, blocking):
        self.blocking = blocking

    async def info(self):
        return self.blocking.info()

    async def encode(self, picture):
        return self.blocking.encode(picture)

    async def click(self, request, picture=None):
        return self.blocking.click(request, picture)

    async def close(self):
        self.blocking.close()


def test_opening_an_image_does_not_ask_for_the_description_again():
    transport = Restarted()
    with Client(transport) as client:
        client.open(IMAGE).click(20, 20)
        client.open(IMAGE).click(20, 20)
    assert transport.asked == 1


def test_an_image_can_be_opened_after_the_server_restarted_with_another_model():
    transport = Restarted()
    with Client(transport) as client:
        old = client.open(IMAGE)
        transport.restart()
        with pytest.raises(IncompatibleServer, match="open the image again"):
            old.click(20, 20)
        for encode in (True, False):
            new = client.open(IMAGE, encode=encode)
            assert new.geometry.network_width == 280
            np.testing.assert_array_equal(new.click(20, 20), disks(new.clicks()))
        assert client.info.model_sha256 == "a" * 64


def test_a_session_that_does_not_encode_uses_the_model_that_runs_now():
    transport = Restarted()
    with Client(transport) as client:
        transport.restart()
        session = client.open(IMAGE, encode=False)
        np.testing.assert_array_equal(session.click(20, 20), disks(session.clicks()))
        assert session.geometry.network_width == 280


def test_an_async_client_follows_a_restarted_server_as_well():
    async def main():
        transport = Restarted()
        async with AsyncClient(OnALoop(transport)) as client:
            old = await client.open(IMAGE)
            assert transport.asked == 1
            transport.restart()
            with pytest.raises(IncompatibleServer, match="open the image again"):
                await old.click(20, 20)
            for encode in (True, False):
                new = await client.open(IMAGE, encode=encode)
                assert new.geometry.network_width == 280
                np.testing.assert_array_equal(await new.click(20, 20), disks(new.clicks()))
            assert client.info.model_sha256 == "a" * 64

    asyncio.run(main())


def test_an_async_client_that_is_closed_while_it_connects_leaves_no_connection():
    async def main():
        asked, answer = asyncio.Event(), asyncio.Event()

        class Slow(OnALoop):
            async def info(self):
                asked.set()
                await answer.wait()
                return await super().info()

        transport = Restarted()
        client = AsyncClient(Slow(transport))
        opening = asyncio.create_task(client.open(IMAGE))
        await asked.wait()
        await client.close()
        answer.set()
        with pytest.raises(InvalidInput, match="was closed"):
            await opening
        assert transport.closed == 1

    asyncio.run(main())


def test_a_server_that_names_one_model_and_answers_with_another_is_refused():
    transport = Restarted()
    with Client(transport) as client:
        transport.encode = lambda picture: replace(
            Disks.encode(transport, picture), model_sha256="c" * 64
        )
        with pytest.raises(IncompatibleServer, match="runs the model cccc"):
            client.open(IMAGE)
