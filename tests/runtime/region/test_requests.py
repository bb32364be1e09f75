"""Which clicks may be decoded on a region: those that ask for it, and those without logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.transport import ClickRequest, Region
from ois_client.sessions.client import Client
from ois_client.wire import read_call
from ois_client.wire.request import click_message
from ois_runtime.engines.backends import (
    EngineBackend,
    EngineOptions,
    load_engines,
    load_region_engines,
)
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.local import LocalTransport
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.pair import EnginePair, HostPrompts
from ois_runtime.engines.region.boxes import Box
from ois_runtime.engines.region.decoder import Decoded
from support.tiny_engines import write_engines, write_region_engines

IMAGE = np.zeros((42, 56, 3), dtype=np.uint8)


class Recording:
    """Real engines that write down how each click was decoded."""

    def __init__(self, engines: EnginePair) -> None:
        self.manifest, self.description = engines.manifest, engines.description
        self.encode = engines.encode
        self._engines = engines
        self.made: list[Region] = []

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        self.made.append(Region.FULL)
        return self._engines.decode(state, prompts)

    def decode_region(
        self,
        state: ImageState,
        prompts: HostPrompts,
        *,
        boxes: Sequence[Sequence[Box]] | None = None,
    ) -> Decoded:
        assert boxes is None
        self.made.append(Region.AUTO)
        logits, coverage = self._engines.decode(state, prompts)
        return Decoded(logits, coverage, (None,) * len(logits))


@pytest.fixture
def engines(tmp_path: Path) -> Recording:
    return Recording(load_engines(write_engines(tmp_path), options=EngineOptions(threads=1)))


@pytest.fixture
def client(engines: Recording) -> Iterator[Client]:
    with Client(LocalTransport(engines)) as client:
        yield client


def test_only_logits_and_a_request_for_it_need_the_whole(
    client: Client, engines: Recording
) -> None:
    session = client.open(IMAGE)
    session.click(10, 10)
    session.click(12, 10, want_depth=True, want_order=True)
    session.click(14, 10, want_logits=True)
    session.click(16, 10, want_logits=True, region="auto")
    session.click(18, 10, region="full")
    auto, full = Region.AUTO, Region.FULL
    assert engines.made == [auto, auto, full, auto, full]


def test_an_unknown_region_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"half.*full, auto"):
        client.open(IMAGE).click(10, 10, region="half")
    with pytest.raises(InvalidInput, match="half"):
        EngineOptions(region="half")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="half"):
        read_call({}, {"ois_region": "half"})


@pytest.mark.parametrize("region", [None, Region.AUTO, Region.FULL])
def test_the_wish_travels(region: Region | None) -> None:
    points, labels = pack_clicks([[Click(5, 5)]], 56, 42)
    geometry = Geometry.fit(56, 42, longest=56)
    coverage = np.zeros((1, *geometry.coverage_shape), dtype=np.uint8)
    has_previous = np.zeros(1, dtype=np.bool_)
    request = ClickRequest("0" * 64, points, labels, coverage, has_previous, region=region)
    message = click_message(request)
    call = read_call(message.tensors, message.parameters)
    assert call.click_request(geometry).region is region


def test_engines_of_an_earlier_export_are_refused(tmp_path: Path) -> None:
    manifest = Manifest.load(write_region_engines(tmp_path))
    assert manifest.region is not None
    earlier = replace(manifest.region, crop=manifest.region.tail)
    replace(manifest, region=earlier).save(tmp_path)
    with pytest.raises(EngineError, match=r"exported by an earlier version.*export it again"):
        load_region_engines(tmp_path, EngineBackend.ONNXRUNTIME, EngineOptions())
