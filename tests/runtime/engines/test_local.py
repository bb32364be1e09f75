"""`local:` runs the engines in this process: correct masks, typed errors, independent sessions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.errors import (
    EngineError,
    InvalidClick,
    InvalidInput,
    TooManyClicks,
    UnknownImage,
)
from ois_client.contract.geometry import PREPROCESS_VERSION
from ois_client.contract.images import Picture, load_image
from ois_client.contract.transport import ClickRequest
from ois_client.sessions.client import Client
from ois_runtime.engines.local import ENGINES_VARIABLE, LocalTransport, open_transport
from ois_runtime.engines.manifest import EXPORT_COMMAND, Manifest
from support.tiny_engines import LONGEST, PATCH, disk_logits, write_engines

STATE_BYTES = (56 * 42 + 1 + 1 + 12) * 4
RADIUS = 12  # of the first click's disk, in network pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def transport(folder: Path) -> Iterator[LocalTransport]:
    transport = open_transport(str(folder), threads=1)
    yield transport
    transport.close()


def picture(seed: int = 0) -> Picture:
    """112x84: twice the network's 56x42, so a click at 2x + 0.5 is network pixel x."""
    rng = np.random.default_rng(seed)
    return load_image(rng.integers(0, 256, (84, 112, 3), dtype=np.uint8))


def request(digest: str, objects: list[list[Click]], **changes: object) -> ClickRequest:
    points, labels = pack_clicks(objects, 112, 84)
    count = len(objects)
    fields = {
        "coverage": np.zeros((count, 3, 4), dtype=np.uint8),
        "has_previous": np.zeros(count, dtype=bool),
    }
    return replace(ClickRequest(digest, points, labels, **fields), **changes)


def test_a_click_gives_masks_of_the_original_image(transport: LocalTransport) -> None:
    image = picture()
    encoded = transport.encode(image)
    assert (encoded.digest, encoded.cached) == (image.digest, False)
    reply = transport.click(
        request(
            image.digest,
            [[Click(40.5, 40.5)], [Click(80.5, 40.5)]],
            want_depth=True,
            want_logits=True,
        )
    )
    ys, xs = np.mgrid[:84, :112]
    for mask, x in zip(reply.masks, (40.5, 80.5), strict=True):
        distance = np.hypot(xs - x, ys - 40.5)
        clear = abs(distance - 2 * RADIUS) > 0.5
        np.testing.assert_array_equal(mask[clear], distance[clear] < 2 * RADIUS)
    assert reply.masks.dtype == np.uint8
    assert reply.logits is not None
    np.testing.assert_allclose(reply.logits[0], disk_logits((20, 20), (42, 56), 12), atol=1e-4)
    assert reply.depth is not None
    assert (reply.depth.min(), reply.depth.max()) == (0, 1)
    assert reply.coverage.shape == (2, 3, 4)


def test_depth_and_logits_come_only_when_wanted(transport: LocalTransport) -> None:
    transport.encode(picture())
    reply = transport.click(request(picture().digest, [[Click(40, 40)]]))
    assert reply.depth is None
    assert reply.logits is None


def test_every_stage_is_timed_and_a_second_encode_is_free(transport: LocalTransport) -> None:
    first = transport.encode(picture())
    assert set(first.timings_ms) == {"preprocess", "encode"}
    again = transport.encode(picture())
    assert (again.cached, dict(again.timings_ms)) == (True, {})
    reply = transport.click(request(picture().digest, [[Click(40, 40)]]))
    assert set(reply.timings_ms) == {"decode", "postprocess"}
    assert all(ms > 0 for ms in reply.timings_ms.values())
    stats = transport.stats()
    assert (stats.hits, stats.misses, stats.bytes) == (2, 1, STATE_BYTES)


def test_info_describes_the_engines(transport: LocalTransport, folder: Path) -> None:
    info = transport.info()
    manifest = Manifest.load(folder)
    assert (info.network, info.longest, info.patch) == ("tiny-test", LONGEST, PATCH)
    assert (info.preprocess_version, info.trained) == (PREPROCESS_VERSION, False)
    assert info.model_sha256 == manifest.model_sha256
    assert info.engine.startswith("onnxruntime ")


@pytest.mark.parametrize("address", ["{}?longest=84", "{}"])
def test_the_engines_run_at_another_size(folder: Path, address: str) -> None:
    given = {} if "?" in address else {"longest": 84}
    with Client(open_transport(address.format(folder), threads=1, **given)) as client:
        assert client.info.longest == 84
        assert client.info.model_sha256 != Manifest.load(folder).model_sha256
        session = client.open(np.zeros((84, 112, 3), dtype=np.uint8))
        mask = session.click(40.5, 40.5)
        # The disk has the same size in network pixels, so it is smaller in the picture.
        radius = RADIUS * 112 / 84
        assert abs(mask.sum() / (np.pi * radius**2) - 1) < 0.1
        coverage = session.coverage()
        assert coverage is not None
        assert coverage.shape == (5, 6)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_session_refines_undoes_and_grows_objects(folder: Path, backend: str) -> None:
    with Client(open_transport(str(folder), backend=backend, threads=1)) as client:
        session = client.open(np.zeros((84, 112, 3), dtype=np.uint8))
        first = session.click(40.5, 40.5)
        second = session.click(40.5, 40.5)  # the previous mask's coverage widens the disk
        assert second.sum() > first.sum()
        smaller = session.click(5, 5, positive=False)
        assert smaller.sum() < second.sum()
        session.undo()
        np.testing.assert_array_equal(session.mask(), second)
        session.undo()
        np.testing.assert_array_equal(session.mask(), first)
        session.new_object()
        np.testing.assert_array_equal(session.click(40.5, 40.5), first)


def test_a_session_survives_the_loss_of_its_image(folder: Path) -> None:
    # Room for one image: the two sessions evict each other at every click.
    with Client(open_transport(str(folder), cache_bytes=STATE_BYTES)) as client:
        pixels = np.zeros((84, 112, 3), dtype=np.uint8)
        sessions = [client.open(pixels), client.open(pixels + 1)]
        for x in (20.5, 40.5, 60.5):
            one, other = (session.click(x, 40.5) for session in sessions)
            np.testing.assert_array_equal(one, other)
            assert one.any()


def test_a_click_on_an_image_without_features_is_unknown_image(transport: LocalTransport) -> None:
    with pytest.raises(UnknownImage, match="Encode it"):
        transport.click(request("f" * 64, [[Click(1, 1)]]))


def test_an_image_too_large_for_the_store_is_refused(folder: Path) -> None:
    transport = open_transport(str(folder), cache_bytes=STATE_BYTES - 1)
    with pytest.raises(EngineError, match="raise cache_bytes"):
        transport.encode(picture())


def test_every_array_of_a_request_is_checked(transport: LocalTransport) -> None:
    digest = transport.encode(picture()).digest
    good = request(digest, [[Click(1, 1)]])
    nan = np.full((1, 1, 2), np.nan, dtype=np.float32)
    for changes, error, text in (
        ({"points": nan}, InvalidClick, "finite"),
        ({"points": good.points + 200}, InvalidClick, "outside the 112x84 image"),
        ({"points": np.zeros((0, 1, 2)), "labels": np.zeros((0, 1))}, InvalidInput, "no object"),
        ({"labels": np.full((1, 1), 2)}, InvalidClick, "label 2"),
        ({"labels": np.full((1, 1), -1)}, InvalidInput, "no click"),
        ({"coverage": np.zeros((1, 4, 3), np.uint8)}, InvalidInput, "coverage"),
        ({"coverage": np.zeros((1, 3, 4), np.float32)}, InvalidInput, "coverage"),
        ({"coverage": np.zeros((2, 3, 4), np.uint8)}, InvalidInput, "coverage"),
        ({"has_previous": np.zeros(2, bool)}, InvalidInput, "has_previous"),
        ({"has_previous": np.zeros(1, np.uint8)}, InvalidInput, "has_previous"),
    ):
        with pytest.raises(error, match=text):
            transport.click(replace(good, **changes))
    many = {"points": np.zeros((1, 25, 2), np.float32), "labels": np.ones((1, 25), np.int32)}
    with pytest.raises(TooManyClicks):
        transport.click(replace(good, **many))
    assert transport.click(good).masks.any()


def test_concurrent_sessions_see_only_their_own_masks(transport: LocalTransport) -> None:
    def work(seed: int) -> bool:
        image = picture(seed % 3)
        transport.encode(image)
        x = 30.5 + seed  # the whole disk lies inside the image
        reply = transport.click(request(image.digest, [[Click(x, 40.5)]], want_depth=True))
        columns = np.flatnonzero(reply.masks[0].any(axis=0))
        return abs((columns[0] + columns[-1]) / 2 - x) <= 0.5

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(48)))
    assert transport.stats().entries == 3


# -- opening -------------------------------------------------------------------------------


def test_the_default_folder_comes_from_the_environment_or_is_the_demos(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINES_VARIABLE, str(folder))
    assert open_transport("").info().network == "tiny-test"
    monkeypatch.delenv(ENGINES_VARIABLE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=r"ois-photo-cpu.*" + EXPORT_COMMAND):
        open_transport("")
    write_engines(tmp_path / "engines" / "ois-photo-cpu")
    assert open_transport().info().network == "tiny-test"


def test_a_missing_folder_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=EXPORT_COMMAND):
        open_transport(str(tmp_path / "nowhere"))


def test_wrong_options_are_refused(folder: Path) -> None:
    for options, text in (
        ({"thread": 4}, "unknown option thread"),
        ({"backend": "tensorflow"}, "backend 'tensorflow'"),
        (
            {"device": "cuda", "backend": "openvino"},
            r"openvino runs on cpu\. .* torch runs on cpu, cuda",
        ),
        ({"threads": 0}, "0 threads"),
        ({"cache_bytes": -1}, "-1 bytes"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"precision": "fp8"}, "precision 'fp8'"),
    ):
        with pytest.raises(InvalidInput, match=text):
            open_transport(str(folder), **options)


def test_engines_of_another_preprocessing_are_refused(tmp_path: Path) -> None:
    write_engines(tmp_path, preprocess_version="0:square")
    with pytest.raises(EngineError, match="0:square"):
        open_transport(str(tmp_path))


def test_a_closed_transport_says_so(folder: Path) -> None:
    transport = open_transport(str(folder))
    transport.encode(picture())
    transport.close()
    transport.close()
    assert transport.stats().bytes == 0
    for call in (transport.info, lambda: transport.encode(picture())):
        with pytest.raises(EngineError, match="closed"):
            call()
