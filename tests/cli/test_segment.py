"""`ois segment` and `ois demo` on a tiny real engine pair whose masks are disks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_cli.demo.samples import PHOTOGRAPHS
from ois_cli.main import main
from support.tiny_engines import write_engines
from support.wire_server import WireServer

WIDTH, HEIGHT = 112, 56  # network 56x28: one network pixel is two image pixels


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    ramp = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    path = tmp_path / "photo.png"
    Image.fromarray(np.stack([ramp] * 3, axis=2)).save(path)
    return path


def disk(x: float, y: float, radius: float) -> np.ndarray:
    """(H, W) bool: the mask that the engines give. radius: in network pixels."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    return np.hypot(xs - x, ys - y) < 2 * radius


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def differing(got: np.ndarray, expected: np.ndarray) -> float:
    """Share of differing pixels. The logits are interpolated, so the edge may differ."""
    return float((got.astype(bool) != expected).sum() / expected.sum())


def test_one_object_is_written_as_black_and_white(engines: Path, image: Path) -> None:
    out = image.with_name("mask.png")
    argv = ["segment", str(image), "--point", "40,28", "--out", str(out)]
    assert main([*argv, "--engines", str(engines)]) == 0
    mask = read(out)
    assert mask.shape == (HEIGHT, WIDTH)
    assert set(np.unique(mask)) == {0, 255}
    assert differing(mask, disk(40, 28, 12)) < 0.03


def test_clicks_are_applied_one_after_another(
    engines: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["segment", str(image), "--json", "--engines", str(engines)]
    areas = []
    for points in (["40,28"], ["40,28", "90,10,-"]):
        options = [option for point in points for option in ("--point", point)]
        assert main([*argv, *options]) == 0
        areas.append(json.loads(capsys.readouterr().out)["objects"][0]["area_px"])
    # A negative click reduces the radius by 2. A previous mask increases it by up to 6, so the
    # area shows that the second click got the mask of the first.
    alone = disk(40, 28, 10).sum()
    assert areas[0] == pytest.approx(disk(40, 28, 12).sum(), rel=0.03)
    assert areas[1] > 1.1 * alone


def test_with_zoom_a_small_object_is_answered_in_a_window(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "large.png"
    Image.new("RGB", (1200, 900)).save(image)
    argv = ["segment", str(image), "--json", "--engines", str(engines), "-p", "600,450"]
    argv += ["-p", "610,450,-"] * 4  # each makes the disk smaller
    areas = []
    for more in ([], ["--zoom"]):
        assert main([*argv, *more]) == 0
        areas.append(json.loads(capsys.readouterr().out)["objects"][0]["area_px"])
    # These engines draw a disk of so many pixels of the network, which sees the window larger.
    assert 0 < areas[1] < 0.5 * areas[0]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_gets_one_request_if_each_object_has_one_click(
    image: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    argv = ["segment", str(image), "--json", "--token", "s3cret", "--out", str(image) + ".mask.png"]
    with WireServer() as server:
        server.token = "s3cret"
        argv += ["--url", server.urls[protocol]]
        assert main([*argv, "--point", "40,28", "--point", "2:80,28"]) == 0
        _description, call = server.calls
        assert (call.objects, call.picture is not None) == (2, True)
        report = json.loads(capsys.readouterr().out)
        assert report["timings_ms"]["request"]["total"] > 0
        assert [entry["area_px"] > 0 for entry in report["objects"]] == [True, True]
        assert read(Path(report["files"]["mask"]))[28, 80] == 2

        server.calls.clear()
        assert main([*argv, "--point", "40,28", "--point", "80,28"]) == 0
        kinds = [(call.objects, call.picture is not None) for call in server.calls]
        assert kinds == [(0, False), (0, True), (1, False), (1, False)]  # a session
        assert set(json.loads(capsys.readouterr().out)["timings_ms"]) == {"encode", "click"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--url", "local:"], "expected a server's address"),
        (["--url", "grpc://127.0.0.1:1", "--threads", "2"], "got --threads with --url"),
    ],
)
def test_a_server_has_its_own_engines(
    image: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["segment", str(image), "--point", "40,28", *options]) == 2
    assert message in capsys.readouterr().err


def test_several_objects_share_a_label_image(
    engines: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = image.with_name("mask.png")
    argv = ["segment", str(image), "--engines", str(engines), "--out", str(out), "--json"]
    assert main([*argv, "--point", "3:26,28", "--point", "86,28"]) == 0
    labels = read(out)
    assert set(np.unique(labels)) == {0, 1, 3}
    assert (labels[28, 26], labels[28, 86]) == (3, 1)
    report = json.loads(capsys.readouterr().out)
    assert [entry["object"] for entry in report["objects"]] == [3, 1]
    assert report["objects"][1]["clicks"] == [[86.0, 28.0, True]]


def test_the_json_report_is_complete(
    engines: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["segment", str(image), "--point", "40,28", "--json", "--repeat", "3"]
    assert main([*argv, "--engines", str(engines)]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["trained"] is False
    assert "random weights" in err
    assert (report["image"]["width"], report["image"]["height"]) == (WIDTH, HEIGHT)
    assert report["model"]["network"] == "tiny-test"
    assert report["repeat"] == 3
    assert set(report["timings_ms"]["encode"]) == {"preprocess", "encode"}
    assert set(report["timings_ms"]["click"]) == {"decode", "postprocess"}
    assert report["objects"][0]["box_xyxy"][0] == pytest.approx(40 - 24, abs=1)


def test_trained_engines_give_no_warning(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_engines(tmp_path / "trained", trained=True)
    assert main(["segment", str(image), "--point", "40,28", "--engines", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "warning" not in err
    assert out.startswith("object 1: ")


def test_every_picture_is_written(engines: Path, image: Path, tmp_path: Path) -> None:
    names = {"overlay": "o.jpg", "depth": "d.png", "order": "m.webp"}
    options = [part for key, name in names.items() for part in (f"--{key}", str(tmp_path / name))]
    points = ["--point", "40,28", "--point", "100,28,-"]
    assert main(["segment", str(image), *points, *options, "--engines", str(engines)]) == 0
    assert read(tmp_path / "o.jpg").shape == (HEIGHT, WIDTH, 3)
    depth = read(tmp_path / "d.png").astype(int).sum(axis=2)
    assert depth[28, 5] < depth[28, 56] < depth[28, 106]  # near is bright, in both
    assert read(tmp_path / "m.webp").shape[1] > 2 * 480  # two panels: M+ and one M-
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--point", "200,28"], "INVALID_CLICK"),
        (["--point", "nan,28"], "INVALID_CLICK"),
        (["--point", "40;28"], "INVALID_CLICK"),
        (["--point", "1,1"] * 25, "TOO_MANY_CLICKS"),
        (["--point", "1,1", "--out", "mask.jpg"], "INVALID_INPUT"),
        (["--point", "1,1", "--overlay", "photo.png"], "INVALID_INPUT"),
        (["--point", "1,1", "--out", "no/such/mask.png"], "OUTPUT_ERROR"),
        (["--point", "1,1", "--backend", "abacus"], "INVALID_INPUT"),
        (["--point", "1,1", "--engines", "nowhere"], "ENGINE_ERROR"),
        (["--point", "1,1", "--repeat", "0"], "USAGE"),
        (["--point", "1,1", "--zoom", "--depth", "depth.png"], "INVALID_INPUT"),
        ([], "USAGE"),
    ],
)
def test_a_mistake_is_reported_and_nothing_is_written(
    engines: Path,
    image: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: str,
) -> None:
    monkeypatch.chdir(image.parent)
    monkeypatch.setenv("OIS_ENGINES", str(engines))
    assert main(["segment", "photo.png", "--json", *options]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert [path.name for path in image.parent.iterdir()] == ["photo.png"]


def test_a_file_that_is_not_an_image_is_reported(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not a picture", encoding="utf-8")
    assert main(["segment", str(text), "--point", "1,1", "--engines", str(engines)]) == 2
    err = capsys.readouterr().err
    assert err.endswith("(INVALID_IMAGE)\n")
    assert len(err.splitlines()) == 1


def test_the_demo_writes_a_sheet_per_photograph(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sheets"
    assert main(["demo", "--sheet", str(folder), "--engines", str(engines)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(folder / f"{photo.name}.png") for photo in PHOTOGRAPHS]
    assert "random weights" in err
    for line in out.splitlines():
        height, width, channels = read(Path(line)).shape
        assert (width, channels) == (4 * 360 + 5 * 12, 3)
        assert height > 400
