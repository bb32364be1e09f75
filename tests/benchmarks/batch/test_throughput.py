"""`ois bench batch` tells the start of a command from its rate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ois_benchmarks.batch.throughput import BatchPlan, _row, _write_input, table
from ois_cli.annotating.input import read_input
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.images import load_image


def test_rate_and_start_come_from_two_runs() -> None:
    row = _row("annotate", "one process", 2, (40, 160), [14.0, 44.0])
    assert row["images_per_s"] == 4.0
    assert row["start_s"] == 4.0
    other = _row("annotate", "Ray, 2 workers", 2, (40, 160), [18.0, 42.0])
    assert "1.25x" in table({"rows": [row, other]})
    with pytest.raises(EngineError, match="quieter machine"):
        _row("annotate", "one process", 2, (40, 160), [14.0, 13.0])


def test_every_image_is_new_and_its_clicks_are_valid(tmp_path: Path) -> None:
    path = _write_input(tmp_path, 6, clicks=3)
    given = read_input(str(path), None)
    assert (len(given.lines), given.failures) == (6, ())
    pictures = [load_image(line.image) for line in given.lines]
    assert len({picture.digest for picture in pictures}) == 6
    for line, picture in zip(given.lines, pictures, strict=True):
        (target,) = line.targets
        assert len({(click.x, click.y) for click in target.clicks}) == 3
        for click in target.clicks:
            click.check(picture.width, picture.height)
    assert json.loads(path.read_text().splitlines()[0])["image"] == "0.jpg"


def test_plans_that_cannot_be_measured_are_refused() -> None:
    for wrong in ({"images": (4, 4)}, {"clicks": 25}, {"repeats": 0}, {"workers": (0,)}):
        with pytest.raises(InvalidInput):
            BatchPlan(**wrong)  # type: ignore[arg-type]
