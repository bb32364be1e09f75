"""`ois label`: masks for photographs without masks, resumable, and read by `ois train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ois_cli.main import main
from ois_client.contract.errors import InvalidInput
from ois_client.contract.files import LineFile
from ois_network.training.data.coco import coco
from ois_network.training.data.collections import read_pair
from ois_runtime.sam import everything
from support.sam_files import write_pair


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number}.png")
    return folder


@pytest.fixture
def teacher(tmp_path: Path) -> list[str]:
    return ["--teacher", *map(str, write_pair(tmp_path))]


def label(photos: Path, output: Path, teacher: list[str], *more: str) -> int:
    words = ["label", str(photos), "-o", str(output), *teacher, "--points-per-side", "3"]
    return main([*words, "--least-stability", "0.5", *more])


def read(output: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(output.read_text())
    return document


def test_the_result_is_coco_that_training_reads(
    photos: Path, tmp_path: Path, teacher: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output, sheet = tmp_path / "labels.json", tmp_path / "sheet.png"
    assert label(photos, output, teacher, "--sheet", str(sheet), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"photographs": 3, "masks": 27, "failed": 0}
    document = read(output)
    assert [one["file_name"] for one in document["images"]] == [f"photo{n}.png" for n in range(3)]
    assert len({one["id"] for one in document["annotations"]}) == 27
    assert {"predicted_iou", "stability_score", "bbox", "area"} <= document["annotations"][0].keys()
    with Image.open(sheet) as picture:
        assert picture.width > 3 * 360
    assert not output.with_name("labels.json.journal").exists()
    collection = coco(output, photos)
    assert len(collection.pairs) == 27
    image, mask = read_pair(collection.pairs[0])
    assert image.shape == (96, 128, 3)
    assert mask.sum() == document["annotations"][0]["area"]


def test_an_interrupted_run_goes_on_where_it_stopped(
    photos: Path, tmp_path: Path, teacher: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, whole = tmp_path / "labels.json", tmp_path / "whole.json"
    real, calls = everything.label_photograph, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(everything, "label_photograph", interrupted)
    assert label(photos, output, teacher) == 130
    assert not output.exists()
    assert label(photos, output, teacher) == 0
    assert len(calls) == 4  # the first photograph was not labelled again
    assert label(photos, whole, teacher) == 0
    assert read(output)["annotations"] == read(whole)["annotations"]


def test_another_teacher_does_not_go_on_with_the_labels(
    photos: Path,
    tmp_path: Path,
    teacher: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_arguments: Any) -> Any:
        raise KeyboardInterrupt

    output = tmp_path / "labels.json"
    with monkeypatch.context() as patch:
        patch.setattr(everything, "label_photograph", stop)
        assert label(photos, output, teacher) == 130
    other = tmp_path / "other"
    other.mkdir()
    changed = ["--teacher", *map(str, write_pair(other, predicted_iou=0.9))]
    assert label(photos, output, changed) == 2
    assert "another teacher or other options" in capsys.readouterr().err
    assert label(photos, output, changed, "--overwrite") == 0


def test_overwrite_keeps_the_old_labels_until_there_are_new_ones(
    photos: Path, tmp_path: Path, teacher: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "labels.json"
    assert label(photos, output, teacher) == 0
    before = output.read_bytes()
    swapped = [teacher[0], teacher[2], teacher[1]]
    assert label(photos, output, swapped, "--overwrite") == 2
    assert output.read_bytes() == before
    journal = LineFile(output.with_name("labels.json.journal"))  # another run is under way
    journal.append({"kept": True})
    assert label(photos, output, teacher, "--overwrite") == 2
    assert "another process is writing" in capsys.readouterr().err
    assert json.loads(journal.read()) == {"kept": True}
    journal.close()
    assert output.read_bytes() == before


def test_a_damaged_journal_is_told(
    photos: Path, tmp_path: Path, teacher: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "labels.json"
    journal = output.with_name("labels.json.journal")
    for damage in ("hello\n", "[1]\n", '{"path": "a"}\n[]\n'):
        journal.write_text(damage)
        assert label(photos, output, teacher) == 2
        assert "is damaged" in capsys.readouterr().err
        assert journal.read_text() == damage
    assert label(photos, output, teacher, "--overwrite") == 0


def test_a_broken_photograph_costs_itself_only(
    photos: Path, tmp_path: Path, teacher: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    output = tmp_path / "labels.json"
    assert label(photos, output, teacher) == 3
    assert "broken.jpg" in capsys.readouterr().err
    assert len(read(output)["images"]) == 3


def test_mistakes_are_told_before_anything_is_labelled(
    photos: Path, tmp_path: Path, teacher: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "labels.json"
    swapped = [teacher[0], teacher[2], teacher[1]]
    for words, said in (
        ((photos, tmp_path / "labels.txt", teacher), "ending in .json"),
        ((photos, output, teacher, "--sheet", "sheet.pdf"), ".jpg or .png"),
        ((photos, output, swapped), "Is it the decoder"),
        ((tmp_path / "nowhere", output, teacher), "nowhere"),
    ):
        assert label(*words) != 0  # type: ignore[arg-type]
        assert said in capsys.readouterr().err
        assert not output.exists()
    output.write_text("mine")
    assert label(photos, output, teacher) == 2
    assert output.read_text() == "mine"


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"segmentation": [[0, 0, 9, 0, 9, 9]]}, "polygon instead of run lengths"),
        ({"iscrowd": 1}, "crowd"),
        ({"image_id": 7}, "annotation without image"),
        ({"image_id": 2}, "missing image"),
    ],
)
def test_what_cannot_be_trained_on_is_counted(
    photos: Path, tmp_path: Path, annotation: dict[str, Any], reason: str
) -> None:
    good = {"id": 1, "image_id": 1, "segmentation": {"size": [96, 128], "counts": [0, 5, 12283]}}
    images = [{"id": 1, "file_name": "photo0.png"}, {"id": 2, "file_name": "gone.png"}]
    file = tmp_path / "coco.json"
    document = {"images": images, "annotations": [good, {**good, "id": 2, **annotation}]}
    file.write_text(json.dumps(document))
    collection = coco(file, photos)
    assert len(collection.pairs) == 1
    assert dict(collection.skipped) == {reason: 1}
    assert read_pair(collection.pairs[0])[1].sum() == 5


@pytest.mark.parametrize(
    "text", ["hello", "[]", '{"images": []}', '{"images": [], "annotations": []}']
)
def test_a_file_that_is_not_coco_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "coco.json"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=r"coco\.json"):
        coco(file)
