"""The costs in docs/scaling.md follow from the committed simulation."""

from __future__ import annotations

import json
import re

from support.documents import ROOT

PRICE = 0.10  # per hour of a replica


def test_the_document_s_costs_follow_from_the_committed_result() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    section = text.split("## What it costs\n", 1)[1].split("\n## ", 1)[0]
    assert f"a price of {PRICE:.2f} per hour" in section
    cells = r" \| ".join([r"([\d,]+)"] * 2 + [r"([\d.]+)"] * 3)
    rows = re.findall(rf"^\| {cells} \|$", section, re.MULTILINE)
    result = json.loads((ROOT / "benchmarks" / "results" / "capacity.json").read_text())
    assert len(rows) == len(result["sizes"]) == 5
    for row, one in zip(rows, result["sizes"], strict=True):
        replicas, people = one["replicas"], one["people"]
        per_hour = replicas * PRICE
        clicks = one["clicks_per_second"] * 3600
        assert row == (
            f"{replicas:,}",
            f"{people:,}",
            f"{per_hour:.2f}",
            f"{per_hour / people:.4f}",
            f"{per_hour / clicks * 1e6:.2f}",
        )
