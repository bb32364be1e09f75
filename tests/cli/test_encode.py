"""`ois encode` writes features that later clicks use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from ois_cli.batch.places import IMAGE_SUFFIXES, find_images
from ois_cli.batch.progress import Counter
from ois_cli.main import main
from ois_client import Client
from ois_client.contract import files
from ois_client.contract.errors import InvalidInput
from ois_client.contract.images import load_image
from ois_runtime.engines.backends import EngineBackend, load_engines
from ois_runtime.engines.features import (
    FEATURES_FILE,
    FeatureFolder,
    FeaturesOf,
    check_backend,
    pack_features,
)
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import Manifest, sha256_of
from ois_runtime.engines.pixels import preprocess
from support.tiny_engines import write_engines
from support.wire_server import WireServer


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(autouse=True)
def _these_engines(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIS_ENGINES", str(engines))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, one image in a subfolder, and a text file."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.JPG", "below/c.png"):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not looked at", encoding="utf-8")
    return folder


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """Run `ois encode --json`. Returns the exit code, the report and stderr."""
    capsys.readouterr()
    code = main(["encode", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


# -- into a folder -----------------------------------------------------------------------------


def test_clicks_use_features_on_disk_and_encode_nothing(
    engines: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features"
    code, report, _ = run(photos, "--recursive", "--output", out, capsys=capsys)
    assert code == 0
    assert (report["encoded"], report["already_there"], report["failed"]) == (3, 0, [])
    assert report["model_sha256"] == Manifest.load(engines).model_sha256
    assert report["bytes_written"] == sum(p.stat().st_size for p in out.glob("*.safetensors"))
    assert len(list(out.iterdir())) == 4
    for path in (photos / "a.png", photos / "below" / "c.png"):
        with Client(f"local:{engines}?features={out}") as ahead, Client("local:") as plain:
            session, expected = ahead.open(path), plain.open(path)
            assert session.last_encode is not None
            assert session.last_encode.cached
            assert set(session.last_encode.timings_ms) == {"load"}
            for x, y in ((30, 20), (50, 40)):
                np.testing.assert_array_equal(session.click(x, y), expected.click(x, y))
            assert session.clicks() == expected.clicks()
    other = np.zeros((30, 30, 3), np.uint8)
    with Client("local:", features=out) as client:  # an image without features is encoded
        assert set(client.open(other).last_encode.timings_ms) == {"preprocess", "encode"}  # type: ignore[union-attr]


def test_segment_uses_features(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features"
    run(photos / "a.png", "--output", out, capsys=capsys)
    argv = ["segment", str(photos / "a.png"), "--point", "30,20", "--json"]
    reports = []
    for more in ([], ["--features", str(out)]):
        assert main([*argv, *more]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0]["objects"] == reports[1]["objects"]
    assert set(reports[1]["timings_ms"]["encode"]) == {"load"}


def test_a_second_run_encodes_only_missing_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features"
    run(photos, "--output", out, capsys=capsys)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    code, report, _ = run(photos, "--recursive", "--output", out, capsys=capsys)
    assert code == 0
    assert (report["encoded"], report["already_there"]) == (1, 2)
    assert before.items() < {p.name: p.stat().st_mtime_ns for p in out.iterdir()}.items()


def test_failed_images_are_reported_and_others_encoded(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "0.png").write_text("no picture", encoding="utf-8")
    whole = (photos / "a.png").read_bytes()
    (photos / "1.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "features"
    code, report, err = run(photos, photos / "none.png", "--output", out, capsys=capsys)
    assert code == 3
    assert report["encoded"] == 2
    failed = {Path(one["image"]).name: one["code"] for one in report["failed"]}
    assert failed == dict.fromkeys(("0.png", "1.png", "none.png"), "INVALID_IMAGE")
    assert err.count("failed: image") == 3
    assert main(["encode", str(photos), "--output", str(out)]) == 3
    assert "0 encoded, 2 existed, 2 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)]
)
def test_the_next_run_continues_after_a_full_disk_or_ctrl_c(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
) -> None:
    out = tmp_path / "features"
    real, written = files._write_through, []

    def at_the_second_image(path: Path, data: bytes) -> None:
        real(path, data[: len(data) // 2] if len(written) == 2 else data)
        written.append(path)  # the first is features.json
        if len(written) == 3:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write_through", at_the_second_image)
        assert main(["encode", str(photos), "--output", str(out)]) == code
    assert "stopped after 1 of 2. Encoded images are kept" in capsys.readouterr().err
    assert not list(out.glob(".*"))
    assert len(list(out.glob("*.safetensors"))) == 1
    status, report, _ = run(photos, "--output", out, capsys=capsys)
    assert (status, report["encoded"], report["already_there"]) == (0, 1, 1)


# -- errors ------------------------------------------------------------------------------------


def test_features_of_another_model_are_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features"
    run(photos, "--output", out, capsys=capsys)
    other = write_engines(tmp_path / "other")
    with (other / "encoder.onnx").open("ab") as file:
        file.write(b"\x72\x00")  # an empty metadata entry: another file, the same graph
    manifest = json.loads((other / "manifest.json").read_text())
    encoder = manifest["engines"]["encoder"]
    encoder["sha256"] = sha256_of(other / "encoder.onnx")
    encoder["bytes"] += 2
    (other / "manifest.json").write_text(json.dumps(manifest))
    code, report, _ = run(photos, "--output", out, "--engines", other, capsys=capsys)
    assert (code, report["error"]["code"]) == (2, "INVALID_INPUT")
    with pytest.raises(InvalidInput, match=r"made by the model tiny-test.*cannot use them"):
        Client(f"local:{other}", features=out)
    # A file that was moved here from another folder also names its model.
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / FEATURES_FILE).write_text(FeaturesOf.engines(other).to_json())
    for path in out.glob("*.safetensors"):
        shutil.copy(path, mixed)
    with (
        Client(f"local:{other}", features=mixed) as client,
        pytest.raises(InvalidInput, match="cannot use them"),
    ):
        client.open(photos / "a.png")


def test_damaged_features_are_reported(engines: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    assert main(["encode", str(photos), "--output", str(out)]) == 0
    digest = load_image(photos / "a.png").digest
    other = load_image(photos / "b.JPG").digest
    folder = FeatureFolder(out, Manifest.load(engines))
    assert len(folder) == 2
    path = folder.path(digest)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:20], b"\0" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(InvalidInput, match=r"damaged.*Delete the file"):
            folder.load(digest)
    path.write_bytes(folder.path(other).read_bytes())
    with pytest.raises(InvalidInput, match=f"holds the features of {other}"):
        folder.load(digest)
    described = out / FEATURES_FILE
    good = described.read_text()
    for text in ("", "[]", "{}", good.replace('"schema": 1', '"schema": 9')):
        described.write_text(text)
        with pytest.raises(InvalidInput, match=r"ois encode"):
            FeatureFolder(out, Manifest.load(engines))
    described.write_text(good.replace('"1:', '"0:'))
    with pytest.raises(InvalidInput, match="preprocessing '0:"):
        FeatureFolder(out, Manifest.load(engines))
    with pytest.raises(InvalidInput, match="no features in"):
        Client("local:", features=tmp_path)
    with pytest.raises(InvalidInput, match="torch"):
        check_backend(EngineBackend.parse("torch"))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "INVALID_INPUT"),
        (["--output", "out", "--url", "grpc://127.0.0.1:1"], "INVALID_INPUT"),
        (["--url", "local:"], "INVALID_INPUT"),
        (["--output", "out", "--backend", "abacus"], "INVALID_INPUT"),
        (["--output", "out", "--engines", "nowhere"], "ENGINE_ERROR"),
        (["--output", "a.png"], "OUTPUT_ERROR"),
        (["--url", "grpc://127.0.0.1:1"], "SERVER_UNAVAILABLE"),
    ],
)
def test_a_mistake_is_reported_before_any_work(
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: str,
) -> None:
    monkeypatch.chdir(photos)
    status, report, _ = run("a.png", *words, capsys=capsys)
    assert (status, report["error"]["code"]) == (2, code)
    assert not Path("out").exists()


def test_images_are_found_once_and_in_order(photos: Path) -> None:
    given = [photos / "b.JPG", photos, photos / "gone.jpg", photos / "notes.txt"]

    def names(*places: Path, recursive: bool = False) -> list[str]:
        found = find_images([str(place) for place in places], recursive=recursive)
        return [Path(place).name for place in found]

    found = names(*given)
    assert found == ["b.JPG", "a.png", "gone.jpg", "notes.txt"]
    assert names(photos, recursive=True) == ["a.png", "b.JPG", "c.png"]
    (photos / "empty").mkdir()
    with pytest.raises(InvalidInput, match="--recursive searches"):
        names(photos / "empty")
    assert ".jpeg" in IMAGE_SUFFIXES


# -- fp16 --------------------------------------------------------------------------------------


def test_arrays_are_stored_as_fp16_if_their_range_allows(engines: Path, photos: Path) -> None:
    pair = load_engines(engines)
    picture = load_image(photos / "a.png")
    image, fit = preprocess(picture, pair.manifest.fit)
    state = pair.encode(image, fit)
    features_of = FeaturesOf.engines(engines)
    large = state.arrays["position"] * np.float32(1e6)
    changed = ImageState({**state.arrays, "position": large}, fit)
    for each, kept in ((state, set()), (changed, {"position"})):
        path = photos / "x.safetensors"
        path.write_bytes(pack_features(each, picture, features_of))
        with safe_open(path, framework="numpy") as file:
            types = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
        single = {name for name, dtype in types.items() if dtype == np.float32}
        assert single == {"depth_min", "depth_max"} | kept
        assert {types[name] for name in types.keys() - single} == {np.dtype(np.float16)}


# -- into a server's store ---------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_is_prewarmed(
    photos: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with WireServer() as server:
        url = server.urls[protocol]
        code, report, _ = run(photos, "--recursive", "--url", url, capsys=capsys)
        assert (code, report["encoded"], report["all_there"]) == (0, 3, True)
        assert server.disks.encodes == 3
        assert [call.objects for call in server.calls if call.picture] == [0, 0, 0]
        code, report, _ = run(photos, "--url", url, capsys=capsys)
        assert (report["encoded"], report["already_there"]) == (0, 2)
        with Client(url) as client:
            assert client.open(photos / "a.png").last_encode.cached  # type: ignore[union-attr]


def test_a_store_that_is_too_small_is_reported(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with WireServer() as server:
        encode = server.disks.encode

        def forgetful(picture: Any) -> Any:
            server.disks.images.clear()
            return encode(picture)

        server.disks.encode = forgetful  # type: ignore[method-assign]
        code, report, err = run(photos, "--url", server.urls["grpc"], capsys=capsys)
    assert (code, report["all_there"]) == (0, False)
    assert "no room for all images" in err


def test_a_token_is_sent(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with WireServer() as server:
        server.token = "s3cret"
        url = server.urls["grpc"]
        assert run(photos, "--url", url, "--token", "s3cret", capsys=capsys)[0] == 0
        code, report, _ = run(photos, "--url", url, "--token", "other", capsys=capsys)
    assert (code, report["error"]["code"]) == (2, "ACCESS_DENIED")


# -- progress ----------------------------------------------------------------------------------


def test_progress_without_a_terminal_is_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    counter = Counter("encoding", 100, None, lambda: now[0])
    for step in range(1, 101):
        now[0] = step * 4.0
        counter.add(failed=step == 3)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "encoding: 3 of 100, 1 failed, 6:28 left"
    assert len(said) == 33
    assert (counter.done, counter.failed) == (100, 1)
