"""A real server answers a click coarsely and in full; both answers are those of the engines."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ois_client import Client
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput
from ois_client.contract.transport import Answer
from ois_client.transports.blocking import open_transport
from ois_client.wire import click_message, oneshot_message
from ois_export.repository import write_repository
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.manifest import Manifest
from support.server.calls import click_request, eventually, infer, metrics, picture
from support.tiny_engines import write_region_engines

IMAGE = picture(8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_region_engines(tmp_path_factory.mktemp("engines"))
    write_repository(folder, Manifest.load(folder))
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(folder, ServerOptions(cache_bytes=2**24)) as server:
        yield server


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_both_answers_are_those_of_the_engines(
    running: EmbeddedServer, folder: Path, protocol: str
) -> None:
    url = getattr(running, f"{protocol}_url")
    request = click_request(IMAGE, [Click(40, 40), Click(9, 9, positive=False)], [Click(90, 60)])
    rough = replace(request, answer=Answer.COARSE)
    transport = open_transport(url)
    with Client(f"local:{folder}") as local:
        expected = local.open(IMAGE.pixels())
        transport.encode(IMAGE)
        with ThreadPoolExecutor() as pool:  # in flight at the same time
            answers = list(pool.map(transport.click, [rough, request] * 8))
        for asked, got in zip([rough, request] * 8, answers, strict=True):
            assert got.answer is asked.answer
            own = expected.send(asked)
            np.testing.assert_array_equal(got.masks, own.masks)
            np.testing.assert_array_equal(got.coverage, own.coverage)
    transport.close()


def test_a_session_gets_the_same_masks_with_and_without(running: EmbeddedServer) -> None:
    with Client(running.grpc_url) as client:
        assert client.info.coarse_answers
        plain, progressive = client.open(IMAGE.pixels()), client.open(IMAGE.pixels())
        progressive.coarse_after_s = 0
        seen: list[object] = []
        for x, y, sign in ((40, 40, True), (70, 44, True), (60, 60, False)):
            mask = progressive.click(x, y, sign, on_coarse=seen.append)
            np.testing.assert_array_equal(mask, plain.click(x, y, sign))


def test_they_are_counted_by_themselves_and_only_ois_segment_has_them(
    running: EmbeddedServer,
) -> None:
    name = 'ois_requests_total{kind="coarse",outcome="ok"}'
    before = metrics(running).get(name, 0)
    rough = replace(click_request(IMAGE, [Click(5, 5)]), answer=Answer.COARSE)
    reply = infer(running, click_message(rough, picture=IMAGE))
    assert set(reply) == {"INFO", "MASKS", "MASK_SIZES"}
    found = eventually(lambda: metrics(running), lambda now: now.get(name, 0) > before)
    assert found[name] > before
    message = oneshot_message(replace(rough, answer=Answer.FULL), IMAGE)
    parameters = {**message.parameters, "ois_answer": "coarse"}
    with pytest.raises(InvalidInput, match="full answers only"):
        infer(running, replace(message, parameters=parameters), model=message.model)
