"""`ois bench overhead`: the same clicks in process and through a server are compared in pairs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from ois_benchmarks.latency import overhead
from ois_cli.main import main
from support.tiny_engines import write_engines


def test_the_overhead_is_the_median_of_differences_on_the_same_places() -> None:
    found = overhead.difference([3.0, 5.0, 11.0], [1.0, 2.0, 4.0])
    assert found["median_ms"] == 3.0
    assert found["low_ms"] <= 3.0 <= found["high_ms"]


def test_too_few_clicks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "overhead", "--engines", str(tmp_path), "--output", str(tmp_path / "o.json")]
    assert main([*words, "--clicks", "1"]) == 2
    assert "expected at least 2 clicks" in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec("pytriton") is None, reason="nvidia-pytriton is not installed"
)
def test_the_command_measures_all_three_clients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines, output = write_engines(tmp_path / "engines"), tmp_path / "overhead.json"
    words = ["--engines", str(engines), "--clicks", "6", "--in-a-row", "3"]
    assert main(["bench", "overhead", *words, "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert set(result["single"]) == {"in process", "gRPC", "HTTP"}
    assert {row["clicks"] for row in result["single"].values()} == {6}
    assert set(result["overhead"]) == {"gRPC", "HTTP"}
    assert result["server_restarts"] == 0
    assert set(result["front"]) == {
        f"{protocol}, {kind}" for protocol in ("gRPC", "HTTP") for kind in ("description", "click")
    }
    table = capsys.readouterr().out
    assert "| one click, ms | median |" in table
    assert "| overhead over in process, ms | median |" in table
    assert "| added by the front, ms | median |" in table
