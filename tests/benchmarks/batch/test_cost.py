"""The estimate follows its formula, and docs/batch.md follows from committed results."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ois_benchmarks.batch.cost import Prices, Rate, document_of, estimate, rates, table
from ois_benchmarks.table import format_number
from ois_cli.main import main
from ois_client.contract.errors import InvalidInput
from support.documents import ROOT

RESULTS = ROOT / "benchmarks" / "results"
ENGINES = {"OpenVINO bf16": "openvino-bf16", "ONNX Runtime": "onnxruntime"}
MILLION = 1_000_000


def read(network: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"engines-{network}-cpu.json").read_text())
    return found


def test_the_formula() -> None:
    rate = Rate("x", images_per_s=10.0, start_s=36.0, bytes_per_image=2_000_000)
    prices = Prices(machine_hour=0.5, gb_month=0.02, months=3)
    found = estimate(rate, 360_000, 4, prices)
    assert found.machine_hours == pytest.approx(10)
    assert found.hours == pytest.approx(10 / 4 + 0.01)
    assert found.stored_gb == pytest.approx(720)
    assert found.cost == pytest.approx(10 * 0.5 + 720 * 0.02 * 3)


def test_rates_of_engines_count_one_encode_and_all_clicks() -> None:
    measured = read("vitb")
    row = next(row for row in measured["rows"] if row["contestant"] == "onnxruntime")
    found = {rate.name: rate for rate in rates(measured, clicks=5)}
    name = f"onnxruntime {row['width']}x{row['height']}"
    seconds = row["encode"]["median_s"] + 5 * row["click"]["median_s"]
    assert found[f"annotate: {name}"].images_per_s == pytest.approx(1 / seconds)
    assert found[f"annotate: {name}"].bytes_per_image == 0
    assert found[f"encode: {name}"].bytes_per_image == row["state_bytes"] // 2
    with pytest.raises(InvalidInput, match="ois bench batch"):
        list(rates({"benchmark": "load"}, clicks=1))


def test_rates_of_batches_are_taken_as_measured() -> None:
    row = {"task": "encode", "way": "Ray, 2 workers", "images_per_s": 4.0, "start_s": 9.0}
    measured = {"benchmark": "batch", "rows": [row], "machine": {"cpu": "x", "cores": 2}}
    measured["clicks_per_image"] = 7
    found = document_of(measured, "b.json", 3, [14_400], 2, Prices(machine_hour=1))
    assert found["rows"][0]["machine_hours"] == pytest.approx(1)
    assert found["clicks_per_image"] == 7
    assert "7 clicks per image" in table(found)


def test_the_document_s_table_follows_from_committed_results() -> None:
    text = (ROOT / "docs" / "batch.md").read_text()
    rows = re.findall(r"^\| (ois-tiny|vitb) (\d+x\d+), ([\w ]+) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == 5
    free = Prices(machine_hour=0)
    for network, size, engine, cells in rows:
        found = {rate.name: rate for rate in rates(read(network), clicks=3)}
        rate, stored = (found[f"{t}: {ENGINES[engine]} {size}"] for t in ("annotate", "encode"))
        expected = [
            rate.images_per_s,
            estimate(rate, MILLION, 1, free).machine_hours,
            estimate(rate, 100 * MILLION, 1, free).machine_hours,
            estimate(stored, MILLION, 1, free).stored_gb,
        ]
        assert cells.split(" | ") == [format_number(value) for value in expected]


def test_the_command_needs_a_price(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "batch-cost", str(RESULTS / "engines-vitb-cpu.json")]
    assert main(words) == 2
    capsys.readouterr()
    assert main([*words, "--price-per-hour", "2", "--images", "3600", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prices"]["machine_hour"] == 2
    assert all(
        row["machine_hours"] * row["images_per_s"] == pytest.approx(1) for row in found["rows"]
    )
    assert not [row for row in found["rows"] if "unrewritten" in row["name"]]
    assert main([*words, "--price-per-hour", "-1"]) == 2
    assert main([*words, "--price-per-hour", "1", "--images", "many"]) == 2
