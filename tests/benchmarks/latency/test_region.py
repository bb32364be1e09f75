"""`ois bench region`: boxes have the asked share; every engine is in the table and the chart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ois_benchmarks.contestants.regions import box_around
from ois_benchmarks.contestants.registry import CONTESTANTS, wants_regions
from ois_benchmarks.latency.region import svg_of, table_of


@given(
    grid=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    share=st.floats(0.01, 1),
    place=st.tuples(st.floats(0, 80), st.floats(0, 80)),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_box_has_the_share_and_lies_in_the_grid(
    grid: tuple[int, int], share: float, place: tuple[float, float]
) -> None:
    box = box_around(np.array([place]), grid, share)
    assert 0 <= box.top < box.bottom <= grid[0]
    assert 0 <= box.left < box.right <= grid[1]
    for side, total in ((box.rows, grid[0]), (box.columns, grid[1])):
        assert side == max(1, round(total * share**0.5))


def test_a_box_is_around_the_clicks_as_far_as_the_image_allows() -> None:
    clicks = np.array([[30.0, 10.0], [34.0, 14.0]])  # (x, y); mean (32, 12)
    assert box_around(clicks, (40, 60), 0.25) == (2, 17, 22, 47)
    assert box_around(np.array([[0.0, 0.0]]), (40, 60), 0.25) == (0, 0, 20, 30)
    assert box_around(np.zeros((0, 2)), (40, 60), 0.25) == (10, 15, 30, 45)


def test_only_contestants_named_so_need_graphs_of_regions() -> None:
    named = {name for name in CONTESTANTS if wants_regions(name)}
    assert {"ois-onnxruntime-region", "ois-openvino-bf16-region"} <= named
    assert named == {name for name in CONTESTANTS if name.endswith("-region")}


@pytest.fixture
def result() -> dict[str, Any]:
    def timing(seconds: float) -> dict[str, Any]:
        return {"median_s": seconds}

    curve = [
        {"share": 0.1, "decoded_share": 0.12, "first_s": 0.2, "click": timing(0.06)},
        {"share": 0.5, "decoded_share": 0.55, "first_s": 0.2, "click": timing(0.11)},
    ]
    return {
        "network": "vitb",
        "picture": [854, 480],
        "rows": [
            {"engine": "openvino-bf16", "full": timing(0.15), "curve": curve},
            {"engine": "onnxruntime-fp32", "failed": "out of memory"},
        ],
        "peers": [{"contestant": "hqsam-vitb", "label": "HQ-SAM ViT-B", "click_s": 0.172}],
    }


def test_engines_and_peers_are_in_table_and_chart(result: dict[str, Any]) -> None:
    table = table_of(result).markdown()
    for text in ("openvino-bf16", "150.0", "60.0", "110.0", "out of memory", "172.0", "10%"):
        assert text in table
    chart = svg_of(result)
    assert chart.startswith("<svg")
    assert "openvino-bf16" in chart
    assert "HQ-SAM ViT-B" in chart
