"""Features per token: behind a proxy that checks several tokens, none finds another's images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ois_client import Client
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput, UnknownImage
from ois_client.wire import click_message, encode_message, read_info
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import click_request, infer, picture

PROTOCOLS = ("grpc", "http")


@pytest.fixture(scope="module")
def salted(engines: Path) -> Iterator[EmbeddedServer]:
    """The server itself takes every token, as behind a proxy that has checked them."""
    options = ServerOptions(cache_salt="token", cache_bytes=2**26)
    with EmbeddedServer(engines, options) as server:
        yield server


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_token_finds_the_images_of_another(salted: EmbeddedServer, protocol: str) -> None:
    image = picture(900 + PROTOCOLS.index(protocol))
    encode, click = encode_message(image), click_message(click_request(image, [Click(40, 40)]))
    assert not read_info(infer(salted, encode, protocol=protocol, token="one")).cached
    assert read_info(infer(salted, click, protocol=protocol, token="one")).cached
    for token in ("two", None):
        with pytest.raises(UnknownImage):
            infer(salted, click, protocol=protocol, token=token)
    # A client cannot be somebody else by a parameter of its own.
    forged = replace(click, parameters={**click.parameters, "authorization": "one"})
    with pytest.raises(InvalidInput, match="authorization"):
        infer(salted, forged, protocol=protocol, token="two")
    assert not read_info(infer(salted, encode, protocol=protocol, token="two")).cached


def test_a_token_finds_its_images_over_both_protocols(salted: EmbeddedServer) -> None:
    pixels = picture(910).pixels()
    with Client(salted.grpc_url, token="one") as client:
        client.open(pixels).click(40, 40)
    encode = encode_message(picture(910))
    assert read_info(infer(salted, encode, protocol="http", token="one")).cached
    assert not read_info(infer(salted, encode, protocol="http", token="two")).cached
