"""`ois annotate` writes one COCO document from many lines, also after interruptions."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ois_cli.annotating.input import Line, read_input
from ois_cli.annotating.journal import FinishedLine, Journal, MaskRecord, file_stamp
from ois_cli.main import main
from ois_client import Client
from ois_client.contract.errors import InvalidInput, OutputError
from ois_client.contract.transport import ModelInfo
from ois_runtime.engines.local import LocalTransport
from ois_runtime.engines.manifest import Manifest
from support.tiny_engines import write_engines
from support.wire_server import WireServer

WIDTH, HEIGHT = 80, 60

#: Alternating images, several objects with different numbers of clicks, clicks that remove.
LINES: list[dict[str, Any]] = [
    {"image": "a.png", "points": [[20, 20], [30, 25]], "labels": [1, 0], "category": "cup"},
    {
        "image": "b.png",
        "id": "two",
        "category": "leaf",
        "objects": [
            {"points": [[20, 30], [24, 30], [60, 50]], "labels": [1, 1, 0]},
            {"points": [[60, 30]], "category": "stone", "id": 17},
        ],
    },
    {"image": "a.png", "points": [[70, 50]], "category": "cup"},
]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(autouse=True)
def _here(engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images in the current folder."""
    monkeypatch.setenv("OIS_ENGINES", str(engines))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(name)


def write(lines: list[Any], path: str = "clicks.jsonl") -> None:
    text = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    Path(path).write_text("\n".join(text) + "\n", encoding="utf-8")


def annotate(*words: str) -> int:
    return main(["annotate", "clicks.jsonl", "--output", "out.json", *words])


def load(path: str = "out.json") -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        return COCO(path)


def document(path: str = "out.json") -> dict[str, Any]:
    """The document without the date, which differs between runs."""
    found: dict[str, Any] = json.loads(Path(path).read_text())
    del found["info"]["date_created"]
    return found


def encodes(monkeypatch: pytest.MonkeyPatch, fail: Callable[[int], None] = lambda _: None) -> list:
    """Record the digests of encoded images; `fail` gets the count and may raise."""
    seen: list[str] = []
    real = LocalTransport.encode

    def encode(self: LocalTransport, picture: Any) -> Any:
        seen.append(picture.digest)
        fail(len(seen))
        return real(self, picture)

    monkeypatch.setattr(LocalTransport, "encode", encode)
    return seen


# -- the document ------------------------------------------------------------------------------


def test_masks_equal_those_of_single_clicks(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(LINES)
    seen = encodes(monkeypatch)
    assert annotate() == 0
    assert len(seen) == 2  # each image once, although the lines alternate
    coco = load()
    assert [coco.cats[number]["name"] for number in sorted(coco.cats)] == ["cup", "leaf", "stone"]
    images = [(one["id"], one["file_name"], one["width"]) for one in coco.dataset["images"]]
    assert images == [(1, "a.png", WIDTH), (2, "b.png", WIDTH)]
    found = coco.dataset["annotations"]
    assert [(one["image_id"], one["category_id"]) for one in found] == [
        (1, 1),
        (2, 2),
        (2, 3),
        (1, 1),
    ]
    assert [one.get("ois_id") for one in found] == [None, "two", 17, None]
    objects = [target for line in LINES for target in line.get("objects", [line])]
    with Client("local:") as client:
        for one, target in zip(found, objects, strict=True):
            session = client.open(coco.imgs[one["image_id"]]["file_name"])
            labels = target.get("labels", [1] * len(target["points"]))
            for (x, y), label in zip(target["points"], labels, strict=True):
                mask = session.click(x, y, positive=label == 1)
            np.testing.assert_array_equal(coco.annToMask(one), mask)
            rle = coco.annToRLE(one)
            assert one["area"] == coco_mask.area(rle) == mask.sum()
            assert one["bbox"] == coco_mask.toBbox(rle).tolist()
            assert one["iscrowd"] == 0
    about = coco.dataset["info"]["ois"]
    assert about["model_sha256"] == Manifest.load(engines).model_sha256
    assert about["engine"].startswith("onnxruntime")
    assert not list(Path().glob("out.json.*"))


def test_an_empty_mask_has_no_area_and_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    points = [[40, 30]] + [[70, 5]] * 7  # each removal takes 2 of a radius of 12
    write([{"image": "a.png", "points": points, "labels": [1] + [0] * 7}])
    assert annotate("--json") == 0
    assert json.loads(capsys.readouterr().out)["empty_masks"] == 1
    coco = load()
    (one,) = coco.dataset["annotations"]
    assert (one["area"], one["bbox"]) == (0, [0, 0, 0, 0])
    assert not coco.annToMask(one).any()


def test_more_objects_than_fit_in_one_request() -> None:
    objects = [{"points": [[2 * n, n]]} for n in range(35)]
    write([{"image": "a.png", "objects": objects}])
    assert annotate() == 0
    coco = load()
    assert len(coco.anns) == 35
    for number, target in enumerate(objects, start=1):
        x, y = target["points"][0]
        assert coco.annToMask(coco.anns[number])[y, x] == 1


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_can_be_used(protocol: str) -> None:
    write(LINES)
    with WireServer() as server:
        server.token = "s3cret"
        assert annotate("--url", server.urls[protocol], "--token", "s3cret") == 0
        assert server.disks.encodes == 2
        assert load().annToMask(load().anns[1])[20, 20] == 1
    assert document()["info"]["ois"]["network"] == "disks"


def test_an_image_that_needs_one_answer_is_one_request_to_a_server() -> None:
    alone = {"image": "a.png", "objects": [{"points": [[20, 20]]}, {"points": [[60, 40]]}]}
    outside = {"image": "b.png", "points": [[WIDTH, 1]]}
    write([alone, outside])
    with WireServer() as server:
        assert annotate("--url", server.urls["grpc"]) == 3  # the click outside is listed
        asked = [(call.objects, call.picture is not None) for call in server.calls]
    assert asked == [(0, False), (2, True)]  # the description, and all of a.png
    found = load()
    assert [found.annToMask(found.anns[number]).any() for number in (1, 2)] == [True, True]
    (error,) = map(json.loads, Path("out.json.errors.jsonl").read_text().splitlines())
    assert (error["image"], error["code"]) == ("b.png", "INVALID_CLICK")


def test_features_on_disk_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    write(LINES)
    assert annotate() == 0
    expected = document()
    assert main(["encode", "a.png", "b.png", "--output", "features"]) == 0
    from ois_runtime.engines import segmenter

    monkeypatch.setattr(segmenter, "preprocess", None)  # encoding would need it
    assert annotate("--features", "features", "--overwrite") == 0
    assert document() == expected


# -- stopped and continued ---------------------------------------------------------------------


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OutputError("full"), 2)])
def test_an_interrupted_run_continues(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    write(LINES)
    assert annotate("--output", "whole.json") == 0
    whole = document("whole.json")

    def fail(count: int) -> None:
        if count == 2:
            raise error

    with monkeypatch.context() as patch:
        encodes(patch, fail)
        assert annotate() == code
    assert "stopped after 2 of 3. Finished lines are kept" in capsys.readouterr().err
    assert not Path("out.json").exists()
    seen = encodes(monkeypatch)
    assert annotate() == 0
    assert len(seen) == 1  # a.png was done
    assert document() == whole
    assert not list(Path().glob("out.json.*"))


def test_kill_9_loses_at_most_one_line() -> None:
    lines = [{"image": "a.png", "points": [[1 + n % 70, 20]] * 20} for n in range(2000)]
    write(lines)
    words = ["annotate", "clicks.jsonl", "--output", "out.json"]
    process = subprocess.Popen([sys.executable, "-m", "ois_cli.main", *words])
    journal = Path("out.json.journal")
    try:
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 20):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not Path("out.json").exists()
    kept = journal.read_bytes().count(b"\n") - 1
    with journal.open("ab") as file:
        file.write(b'{"done": {"key": "cut o')
    write(lines[:kept])
    with Client("local:") as client, Journal(journal, client.info) as again:
        given = read_input("clicks.jsonl", None)
        assert all(again.find(line.key, file_stamp(line.image)) for line in given.lines)
    assert b"cut o" not in journal.read_bytes()
    assert annotate() == 0
    assert len(load().anns) == kept


def test_lines_that_failed_are_listed_and_can_be_corrected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [
        {"image": "a.png", "points": [[WIDTH, 5]], "id": 4},
        {"image": "gone.png", "points": [[1, 1]]},
        {"image": "a.png", "objects": [{"points": [[1, 1]]}, {"points": [[1, -1]]}]},
        "{",
    ]
    write([*LINES, *wrong, ""])
    assert annotate("--json") == 3
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["lines"], report["done"], report["failed"]) == (7, 3, 4)
    errors = [json.loads(line) for line in Path(report["errors"]).read_text().splitlines()]
    assert [(one["line"], one["id"], one["code"]) for one in errors] == [
        (4, 4, "INVALID_CLICK"),
        (5, None, "INVALID_IMAGE"),
        (6, None, "INVALID_CLICK"),
        (7, None, "INVALID_INPUT"),
    ]
    assert "outside the 80x60 image" in errors[0]["message"]
    assert err.count("failed: line") == 4
    assert [one["id"] for one in document()["annotations"]] == [1, 2, 3, 4]
    # Only the corrected line is annotated; ids do not change.
    write([*LINES, {**wrong[0], "points": [[5, 5]]}])
    seen = encodes(monkeypatch)
    assert annotate() == 0
    assert len(seen) == 1
    assert [one["id"] for one in document()["annotations"]] == [1, 2, 3, 4, 5]
    assert not list(Path().glob("out.json.*"))


def test_a_changed_image_is_annotated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    write([*LINES, {"image": "gone.png", "points": [[1, 1]]}])
    assert annotate() == 3
    before = document()
    Image.fromarray(np.zeros((HEIGHT, WIDTH + 10, 3), np.uint8)).save("b.png")
    seen = encodes(monkeypatch)
    assert annotate() == 3
    assert len(seen) == 1
    widths = [one["width"] for one in document()["images"]]
    assert widths == [before["images"][0]["width"], WIDTH + 10]


# -- what is refused ---------------------------------------------------------------------------


def test_a_result_is_not_replaced_without_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    write(LINES)
    assert annotate() == 0
    before = Path("out.json").read_bytes()
    assert annotate() == 2
    assert "--overwrite" in capsys.readouterr().err
    assert Path("out.json").read_bytes() == before
    write(LINES[:1])
    assert annotate("--overwrite") == 0
    assert len(load().anns) == 1


INFO = ModelInfo("disks", 140, 14, "1:x", "a" * 64, True, "here")


def test_a_journal_belongs_to_one_model_and_one_process(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    done = FinishedLine("k", (1, 2), 3, 4, "d", (MaskRecord("0", 0, (0, 0, 0, 0)),))
    with Journal(path, INFO) as journal:
        journal.add(done)
        assert journal.find("k", (1, 2)) == done
        for overwrite in (False, True):  # which would take the lines of a running process
            with pytest.raises(OutputError, match="another process"):
                Journal(path, INFO, overwrite=overwrite)
    with Journal(path, ModelInfo("disks", 140, 14, "1:x", "a" * 64, True, "there")) as journal:
        assert journal.engines == ["here", "there"]
        assert journal.find("k", (1, 2)) == done
        assert journal.find("k", (9, 2)) is None
        assert journal.find("other", (1, 2)) is None
    with pytest.raises(InvalidInput, match="started with the model aaaaaaaaaaaa"):
        Journal(path, ModelInfo("disks", 140, 14, "1:x", "b" * 64, True, "here"))
    good = path.read_text()
    for text in ("nonsense\n", "{}\n", good.replace('"stamp"', '"stomp"'), '{"run": {}}\n'):
        path.write_text(text)
        with pytest.raises(InvalidInput, match="is damaged"):
            Journal(path, INFO)


def test_a_full_disk_ends_the_run_and_keeps_finished_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write([*LINES, "{"])
    assert annotate() == 3
    journal = Path("out.json.journal")
    run, first, *_ = journal.read_bytes().splitlines(keepends=True)
    journal.unlink()
    Path("out.json").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(run) + len(first) + 20, hard))
    try:
        assert annotate() == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "its earlier lines are kept. Free space" in capsys.readouterr().err
    assert journal.read_bytes() == run + first  # nothing of the unwritten line
    write(LINES)
    assert annotate() == 0
    assert len(load().anns) == 4


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "null",
        '"a.png"',
        "{",
        "\x00",
        {"points": [[1, 1]]},
        {"image": "", "points": [[1, 1]]},
        {"image": 3, "points": [[1, 1]]},
        {"image": "a\0b", "points": [[1, 1]]},
        {"image": "\ud800", "points": [[1, 1]]},
        {"image": "a.png"},
        {"image": "a.png", "points": []},
        {"image": "a.png", "points": [1, 1]},
        {"image": "a.png", "points": [[1, 1, 1]]},
        {"image": "a.png", "points": [["1", 1]]},
        {"image": "a.png", "points": [[True, 1]]},
        {"image": "a.png", "points": [[float("nan"), 1]]},
        {"image": "a.png", "points": [[10**400, 1]]},
        {"image": "a.png", "points": [[1, 1]], "labels": []},
        {"image": "a.png", "points": [[1, 1]], "labels": [2]},
        {"image": "a.png", "points": [[1, 1]], "labels": [True]},
        {"image": "a.png", "points": [[1, 1]], "label": [0]},
        {"image": "a.png", "points": [[1, 1]] * 25},
        {"image": "a.png", "points": [[1, 1]], "category": 7},
        {"image": "a.png", "points": [[1, 1]], "category": ""},
        {"image": "a.png", "points": [[1, 1]], "id": 1.5},
        {"image": "a.png", "points": [[1, 1]], "objects": [{"points": [[1, 1]]}]},
        {"image": "a.png", "objects": []},
        {"image": "a.png", "objects": [[1, 1]]},
        {"image": "a.png", "objects": [{"point": [[1, 1]]}]},
        {"image": "a.png", "objects": [{"points": [[1, 1]], "id": []}]},
        "[" * 100_000,
    ],
)
def test_an_invalid_line_fails_alone(line: Any) -> None:
    write([LINES[0], line])
    given = read_input("clicks.jsonl", None)
    assert [good.number for good in given.lines] == [1]
    (failure,) = given.failures
    assert failure.item["line"] == 2
    said = ("expected", "slots", "not a path")
    assert any(words in str(failure.error) for words in said), failure


def test_relative_images_start_at_the_file_or_at_root(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    write([{"image": "a.png", "points": [[1, 1]]}], str(folder / "clicks.jsonl"))
    (beside,) = read_input(str(folder / "clicks.jsonl"), None).lines
    (below,) = read_input(str(folder / "clicks.jsonl"), str(tmp_path)).lines
    assert isinstance(below, Line)
    assert (beside.image, below.image) == (str(folder / "a.png"), str(tmp_path / "a.png"))
    assert beside.key != below.key


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--output", "out.txt"], "INVALID_INPUT"),
        (["--output", "no/out.json"], "OUTPUT_ERROR"),
        (["--url", "grpc://127.0.0.1:1"], "SERVER_UNAVAILABLE"),
        (["--url", "grpc://127.0.0.1:1", "--features", "."], "INVALID_INPUT"),
        (["--url", "local:nowhere"], "ENGINE_ERROR"),
        (["--url", "ftp://x"], "INVALID_INPUT"),
        (["--features", "."], "INVALID_INPUT"),
    ],
)
def test_a_mistake_is_reported_and_nothing_is_written(
    words: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(LINES)
    assert annotate("--json", *words) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "b.png", "clicks.jsonl"]


@pytest.mark.parametrize("text", [None, "", "\n\n", "[]\n[]\n", "\ufeff\x00\x01"])
def test_a_file_without_a_valid_line_is_refused(
    text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path("clicks.jsonl").write_text(text, encoding="utf-8")
    assert annotate() == 2
    assert "clicks.jsonl" in capsys.readouterr().err
    assert not Path("out.json.journal").exists()
