"""Results of benchmarks are written whole or not at all, and read with an explanation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ois_benchmarks.results import read_json, write_result
from ois_client.contract.errors import InvalidInput, OutputError


def test_a_result_and_its_table_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "engines.json"
    write_result(path, {"rows": [1]})
    assert json.loads(path.read_text()) == {"rows": [1]}
    write_result(path, {"rows": ["\u03c3"]}, "a table\n")
    assert read_json(path) == {"rows": ["\u03c3"]}
    assert path.with_suffix(".md").read_text() == "a table\n"
    assert sorted(p.name for p in path.parent.iterdir()) == ["engines.json", "engines.md"]
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_result(tmp_path / "folder.json", {}, "a table\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.json", "new"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot make the folder"):
        write_result(tmp_path / "file" / "result.json", {})


def test_a_file_that_is_no_result_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_json(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InvalidInput, match="is not JSON"):
        read_json(tmp_path / "broken.json")
