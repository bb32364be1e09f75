"""Coarse answers are right at the clicks and marked; full answers do not depend on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput, ServerOverloaded
from ois_client.contract.transport import Answer, ClickRequest
from ois_client.sessions.client import Client
from ois_client.wire import click_message, info_message, read_click_reply, read_info
from ois_runtime.engines.backends import EngineOptions, load_engines
from ois_runtime.engines.local import LocalTransport
from ois_runtime.engines.pixels import masks_of_grid
from ois_runtime.engines.region.pair import RegionPair
from ois_runtime.engines.segmenter import Segmenter
from ois_runtime.serving.configuration import ServingOptions
from ois_runtime.serving.service import RequestRecord, SegmentService
from support.server.calls import click_request, picture
from support.tiny_engines import write_engines, write_region_engines

IMAGE = picture(5)
CLICKS = [[Click(40, 40), Click(2, 2, positive=False), Click(46, 40, positive=False)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_region_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def engines(folder: Path) -> RegionPair:
    engines = load_engines(folder, options=EngineOptions(threads=1))
    assert isinstance(engines, RegionPair)
    return engines


@pytest.fixture
def transport(engines: RegionPair) -> Iterator[LocalTransport]:
    transport = LocalTransport(engines)
    transport.encode(IMAGE)
    yield transport
    transport.close()


def coarse(request: ClickRequest) -> ClickRequest:
    return replace(request, answer=Answer.COARSE)


def test_it_resembles_the_full_mask_and_is_right_at_the_clicks(transport: LocalTransport) -> None:
    request = click_request(IMAGE, *CLICKS, [Click(90, 60)])
    rough, full = transport.click(coarse(request)), transport.click(request)
    assert (rough.answer, full.answer) == (Answer.COARSE, Answer.FULL)
    assert rough.coverage.shape == (2, 0, 0)
    assert rough.masks.shape == full.masks.shape == (2, 84, 112)
    both, either = rough.masks[1] & full.masks[1], rough.masks[1] | full.masks[1]
    assert both.sum() > 0.9 * either.sum() > 0
    assert [rough.masks[0, int(c.y), int(c.x)] for c in CLICKS[0]] == [1, 0, 0]


def test_the_full_answer_is_bit_for_bit_the_same_with_and_without_it(
    transport: LocalTransport, engines: RegionPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = engines._decoder._trunk
    runs: list[int] = []
    plain = trunk.run
    monkeypatch.setattr(trunk, "run", lambda feeds: runs.append(1) or plain(feeds))
    for clicks in (CLICKS[0][:1], CLICKS[0]):
        request = replace(click_request(IMAGE, clicks), want_logits=True, region=None)
        for each in (request, replace(request, want_logits=False)):
            before = transport.click(each)
            del runs[:]
            transport.click(replace(coarse(each), want_logits=False))
            after = transport.click(each)
            assert len(runs) == 1  # the trunk's results were found
            np.testing.assert_array_equal(after.masks, before.masks)
            np.testing.assert_array_equal(after.coverage, before.coverage)
            if each.want_logits:
                np.testing.assert_array_equal(after.logits, before.logits)


def test_engines_without_parts_have_no_coarse_answers(tmp_path: Path, folder: Path) -> None:
    write_engines(tmp_path)
    for path, region in ((tmp_path, "auto"), (folder, "full")):
        with Client(f"local:{path}?region={region}") as client:
            assert not client.info.coarse_answers
            session = client.open(IMAGE.pixels())
            session.coarse_after_s = 0
            called: list[object] = []
            assert session.click(40, 40, on_coarse=called.append).any()
            assert not called
            with pytest.raises(InvalidInput, match="coarse"):
                session.send(coarse(click_request(IMAGE, *CLICKS)))


@pytest.mark.parametrize("want", ["depth", "logits", "order"])
def test_it_has_masks_only(transport: LocalTransport, want: str) -> None:
    with pytest.raises(InvalidInput, match="masks only"):
        transport.click(coarse(click_request(IMAGE, *CLICKS, **{f"want_{want}": True})))


def test_a_server_marks_it_and_counts_it_by_itself(
    engines: RegionPair, transport: LocalTransport
) -> None:
    service = SegmentService(Segmenter(engines), ServingOptions(decode_objects=1))
    record = RequestRecord()
    assert read_info(service.handle({}, info_message().parameters, record)).model.coarse_answers
    request = click_request(IMAGE, *CLICKS, [Click(90, 60)])
    for each, kind, decodes in ((coarse(request), "coarse", 0), (request, "click", 2)):
        message = click_message(each, picture=IMAGE)
        record = RequestRecord()
        tensors = service.handle(message.tensors, message.parameters, record)
        assert (record.kind, record.decodes) == (kind, decodes)
        assert set(tensors) == set(message.outputs)
        reply = read_click_reply(tensors, each)
        assert reply.answer is each.answer
        np.testing.assert_array_equal(reply.masks, transport.click(each).masks)


def test_a_busy_server_refuses_it_and_answers_in_full(engines: RegionPair) -> None:
    service = SegmentService(Segmenter(engines))
    request = click_request(IMAGE, *CLICKS)
    for each, waited_ms in ((coarse(request), 49.0), (request, 500.0), (coarse(request), 51.0)):
        message = click_message(each, picture=IMAGE)
        record = RequestRecord(timings_ms={"queue": waited_ms})
        refused = each.answer is Answer.COARSE and waited_ms > 50
        with pytest.raises(ServerOverloaded, match="50 ms") if refused else nullcontext():
            service.handle(message.tensors, message.parameters, record)


def test_a_coarse_map_is_enlarged_to_the_image(engines: RegionPair) -> None:
    geometry = engines.manifest.fit(112, 84)
    grid = np.full((1, 12, 16), -1.0, dtype=np.float32)
    grid[0, :, 4:8] = 1.0
    (mask,) = masks_of_grid(grid, geometry)
    expected = np.zeros((84, 112), dtype=np.uint8)
    expected[:, 28:56] = 1  # a cell has 7 pixels; the border lies between two cells
    np.testing.assert_array_equal(mask, expected)
