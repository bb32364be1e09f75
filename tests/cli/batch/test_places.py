"""Images and lines come from files, folders, Parquet and the addresses of object stores."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ois_cli.annotating.input import read_input
from ois_cli.batch.places import (
    find_images,
    join,
    parent,
    records,
    source_of,
    suffix_of,
)
from ois_cli.main import main
from ois_client.contract.errors import InvalidImage, InvalidInput
from support.server.object_store import ObjectStore
from support.tiny_engines import write_engines

LINES: list[dict[str, Any]] = [
    {"image": "a b.png", "points": [[20.0, 20.0], [30.0, 25.0]], "labels": [1, 0], "id": 4},
    {"image": "below/c#%.png", "objects": [{"points": [[9.0, 9.0]]}], "category": "cup"},
    {"image": "a b.png", "points": [[70.0, 50.0]]},
    {"image": "a b.png", "points": [[70.0, 50.0]], "labels": [7]},
]

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None,
    reason="pyarrow is not installed: pip install -e '.[ray]'",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images with names that addresses must encode, and a text file."""
    (tmp_path / "below").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a b.png", "below/c#%.png"):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not looked at")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "name", "expected"),
    [
        ("photos", "a.png", "photos/a.png"),
        ("photos", "/other/a.png", "/other/a.png"),
        ("photos", "s3://bucket/a.png", "s3://bucket/a.png"),
        ("s3://bucket/photos/", "a b.png", "s3://bucket/photos/a%20b.png"),
        ("s3://bucket/photos?region=eu", "x/a.png", "s3://bucket/photos/x/a.png?region=eu"),
    ],
)
def test_names_below_a_folder(place: str, name: str, expected: str) -> None:
    joined = join(place, name)
    assert joined == expected
    assert suffix_of(joined) == ".png"
    if place in ("photos", "s3://bucket/photos?region=eu") and "other" not in name:
        assert parent(join(place, "a.png")) == place


@needs_pyarrow
def test_an_address_is_a_folder_or_a_file(folder: Path) -> None:
    address = folder.as_uri()
    flat = find_images([address], recursive=False)
    deep = find_images([address, *flat], recursive=True)
    assert flat == [f"{address}/a%20b.png"]
    assert deep == [f"{address}/a%20b.png", f"{address}/below/c%23%25.png"]
    assert [source_of(one) for one in deep] == [
        (folder / name).read_bytes() for name in ("a b.png", "below/c#%.png")
    ]
    (folder / "empty").mkdir()
    with pytest.raises(InvalidInput, match="--recursive searches"):
        find_images([f"{address}/empty"], recursive=False)
    with pytest.raises(InvalidInput, match="cannot be listed"):
        find_images([f"{address}/nowhere"], recursive=False)
    with pytest.raises(InvalidImage, match=r"gone\.png cannot be read"):
        source_of(f"{address}/gone.png")
    with pytest.raises(InvalidInput, match="cannot be opened"):
        find_images(["nonsense://x/y"], recursive=False)


@needs_pyarrow
def test_rows_of_parquet_are_lines(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    text, table = folder / "clicks.jsonl", folder / "clicks.parquet"
    text.write_text("\n".join(map(json.dumps, LINES)) + "\n")
    columns = {key: [line.get(key) for line in LINES] for line in LINES for key in line}
    parquet.write_table(pyarrow.table(columns), table, row_group_size=3)
    assert [row for _, row in records(str(table))] == LINES
    expected = read_input(str(text), None)
    assert len(expected.lines) == 3
    found = read_input(str(table), None)
    assert found.lines == expected.lines
    assert [(one.item, str(one.error)) for one in found.failures] == [
        (one.item, str(one.error)) for one in expected.failures
    ]
    remote = read_input(table.as_uri(), None)
    assert [line.image for line in remote.lines[:2]] == [
        f"{folder.as_uri()}/a%20b.png",
        f"{folder.as_uri()}/below/c%23%25.png",
    ]
    table.write_text("no Parquet")
    with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
        list(records(str(table)))


@needs_pyarrow
def test_images_and_lines_in_an_object_store(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clicks and images come from S3; masks and features equal those of local files."""
    (folder / "clicks.jsonl").write_text("\n".join(map(json.dumps, LINES[:3])))
    monkeypatch.setenv("OIS_ENGINES", str(write_engines(tmp_path / "engines")))
    monkeypatch.chdir(tmp_path)
    found = []
    with ObjectStore(folder) as store:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        for place, clicks in (
            (store.address(""), store.address("/clicks.jsonl")),
            (str(folder), str(folder / "clicks.jsonl")),
        ):
            out = f"masks-{len(found)}.json"
            assert main(["annotate", clicks, "-o", out]) == 0
            features = Path(f"features-{len(found)}")
            assert main(["encode", place, "-r", "--output", str(features)]) == 0
            annotations = json.loads(Path(out).read_text())["annotations"]
            found.append((annotations, {p.name: p.read_bytes() for p in features.iterdir()}))
    assert len(found[0][0]) == 3
    assert len(found[0][1]) == 3  # two images, and features.json
    assert found[0] == found[1]


def test_a_folder_of_files_has_an_output_for_each(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OIS_ENGINES", str(write_engines(tmp_path / "engines")))
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "0.jsonl").write_text("\n".join(map(json.dumps, LINES[:2])))
    (lists / "1.jsonl").write_text("\n".join(map(json.dumps, LINES[2:])))
    words = ["annotate", str(lists), "-o", str(tmp_path / "masks"), "--root", str(folder), "--json"]
    assert main(words) == 3
    first, out = capsys.readouterr().out, tmp_path / "masks"
    report = json.loads(first)
    assert (report["lines"], report["done"], report["annotations"]) == (4, 3, 3)
    assert report["errors"] == [str(out / "1.json.errors.jsonl")]
    before = (out / "0.json").stat().st_mtime_ns
    (lists / "1.jsonl").write_text(json.dumps(LINES[2]))
    assert main(words) == 0
    report, said = capsys.readouterr()
    assert json.loads(report)["lines"] == 1
    assert "1 of 2 files are finished" in said
    assert (out / "0.json").stat().st_mtime_ns == before
    assert sorted(path.name for path in out.iterdir()) == ["0.json", "1.json"]
