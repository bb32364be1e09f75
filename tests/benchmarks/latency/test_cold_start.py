"""Cold start is timed from the start of a process to its first mask, and a failure is a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ois_benchmarks.latency import cold_start
from ois_cli.main import main
from ois_export.parity.cases import SQUARE, photo_folder
from support.tiny_engines import write_engines


def test_each_address_is_opened_in_its_own_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = write_engines(tmp_path / "engines")
    result = tmp_path / "result.json"
    good, bad = f"local:{engines}", f"local:{tmp_path}/none"
    assert main(["bench", "cold-start", good, bad, "--repeats", "1", "--output", str(result)]) == 0
    row, failed = json.loads(result.read_text())["rows"]
    assert row["first_mask_s"] > row["load_s"] + row["open_s"] + row["click_s"] > 0
    assert row["engine"].startswith("onnxruntime")
    assert 0 < row["object_px"] < 512 * 512
    assert "no engines at" in failed["failed"]
    table = capsys.readouterr().out
    assert f"| `{good}` | onnxruntime" in table
    assert f"| `{bad}` | no engines at" in table


def test_each_row_is_on_disk_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "result.json"
    urls: list[str] = []

    def stopped_at_the_second(url: str, photo: Path) -> dict[str, object]:
        urls.append(url)
        if url == "local:second":
            raise KeyboardInterrupt  # as at a time limit
        assert photo.is_file()
        return {"engine": "some", "object_px": 1, **dict.fromkeys(cold_start.STAGES, 0.5)}

    monkeypatch.setattr(cold_start, "_once", stopped_at_the_second)
    words = ["bench", "cold-start", "local:first", "local:second", "--repeats", "2"]
    assert main([*words, "--output", str(result)]) == 130
    assert urls == ["local:first"] * 3 + ["local:second"]
    (row,) = json.loads(result.read_text())["rows"]
    assert (row["url"], row["first_mask_s"]) == ("local:first", 0.5)


def test_a_run_that_measured_nothing_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "cold-start", f"local:{tmp_path}/none", "--repeats", "1"]) == 1
    said = capsys.readouterr()
    assert "no engines at" in said.out
    assert said.err == "nothing was measured; each row gives the reason\n"


def test_wrong_arguments_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "cold-start", "--repeats", "0"]) == 2
    assert main(["bench", "cold-start", "--photo", str(tmp_path / "none.jpg")]) == 2
    assert "expected at least 1 and a file" in capsys.readouterr().err
    argv = [f"local:{tmp_path}/none", "--output", str(tmp_path / "folder" / "result.json")]
    assert main(["bench", "cold-start", *argv]) == 2
    assert "does not exist; create it first" in capsys.readouterr().err
    assert (photo_folder() / SQUARE.photo).is_file()
