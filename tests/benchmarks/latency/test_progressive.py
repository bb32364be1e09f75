"""`ois bench progressive`: both kinds of clicks are timed side by side, and masks compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from ois_benchmarks.latency.progressive import figures, measured, tables_of
from ois_benchmarks.quality.datasets import photographs
from ois_cli.main import main
from ois_client import Client
from support.tiny_engines import write_engines, write_region_engines


def test_engines_without_coarse_answers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--engines", str(write_engines(tmp_path)), "--output", str(tmp_path / "p.json")]
    assert main(["bench", "progressive", *words]) == 2
    assert "no coarse answers" in capsys.readouterr().err


def test_every_click_is_made_both_ways_by_every_client(tmp_path: Path) -> None:
    engines = write_region_engines(tmp_path)
    with Client(f"local:{engines}") as one, Client(f"local:{engines}") as other:
        times, ious = measured({"one": one, "other": other}, photographs(2), 2, lambda _: None)
    assert ious.shape == (2, 2)
    assert ((ious > 0) & (ious <= 1)).all()
    found = figures(times, ious)
    for each in found["clients"].values():
        assert each["different_masks"] == 0
        assert each["plain"]["clicks"] == 4
        for way in ("usual", "at once"):
            assert each[way]["full"]["clicks"] == 4
            assert 0 <= each[way]["shown"] <= 1
    clicks, iou = (table.markdown() for table in tables_of({**found, "noisy": False}))
    assert "| one click, ms | coarse request | full mask | added |" in clicks
    assert clicks.count("\n| one | ") == clicks.count("\n| other | ") == 3
    assert "| IoU of coarse and full masks | click 1 | click 2 | all |" in iou
    (only,) = tables_of({**figures(times, None), "noisy": True})
    assert "Other programs" in only.markdown()
