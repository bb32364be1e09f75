"""`ois bench paths`: the ways in which a server answers are measured side by side."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from ois_benchmarks.latency.paths import PATHS
from ois_cli.main import main
from support.tiny_engines import write_engines


@pytest.mark.parametrize("option", ["--clicks", "--images"])
def test_too_few_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    words = ["bench", "paths", "--engines", str(tmp_path), "--output", str(tmp_path / "o.json")]
    assert main([*words, option, "1"]) == 2
    assert "expected at least 2" in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec("pytriton") is None, reason="nvidia-pytriton is not installed"
)
def test_the_command_measures_every_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines, output = write_engines(tmp_path / "engines"), tmp_path / "paths.json"
    words = ["--engines", str(engines), "--clicks", "4", "--images", "2", "--in-a-row", "2"]
    assert main(["bench", "paths", *words, "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert set(result["paths"]) == set(PATHS)
    for row in result["paths"].values():
        assert (row["click"]["clicks"], row["answer"]["clicks"]) == (4, 2)
        assert row["server_restarts"] == 0
        memory = row["memory_mib"]["after"]
        models = {"ois_segment", "ois_encoder", "ois_decoder", "ois_preprocess", "ois_postprocess"}
        assert set(memory) == {"total", "tritonserver", *models}
        assert min(memory.values()) > 1
    assert set(result["more_than_own_decoder"]) == set(PATHS) - {"kept features, own decoder"}
    table = capsys.readouterr().out
    assert "| path |" in table
    assert "| ensemble |" in table
