"""The report's charts show the numbers: values, intervals, limits, and what was not measured."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ois_benchmarks import plotting
from ois_benchmarks.report.inputs import Inputs, LoadRun, Source
from ois_benchmarks.report.load import draw_arrivals, load_section
from ois_benchmarks.report.roofline import Work, draw_roofline
from ois_benchmarks.report.stages import draw_stages, stage_section
from ois_benchmarks.report.times import TimeRow, draw_times, duration, headline, times_svg
from ois_benchmarks.table import format_number
from support.load_steps import step_result
from support.results import CEILINGS, load_document


def texts(figure: Figure) -> set[str]:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(Text)}  # type: ignore[attr-defined]


def only(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def dots(axes: Axes) -> list[tuple[float, float]]:
    return [tuple(one.get_xydata()[0]) for one in axes.lines if one.get_marker() == "o"]  # type: ignore[index,misc]


# -- times ------------------------------------------------------------------------------------


def time_row(label: str, seconds: float, **changes: Any) -> TimeRow:
    return TimeRow(label, seconds, 0.98 * seconds, 1.02 * seconds, **changes)


def test_a_headline_names_losses_like_wins() -> None:
    rows = [
        time_row("slow engine", 0.4, ours=True),
        time_row("OIS", 0.1, ours=True),
        time_row("SegNext", 1.3, rank=0),
        time_row("SAM", 0.05, rank=2),
        time_row("Tiny", 0.02),
        time_row("HQ-SAM", 0.101, rank=1),
        TimeRow("Gone", failed="no code"),
    ]
    assert headline(rows, "A click") == (
        "A click: OIS takes 100 ms: 13x faster than SegNext, about as fast as HQ-SAM, "
        "2.0x slower than SAM; the fastest peer is Tiny, 20.0 ms"
    )
    assert headline(rows[2:], "A click").startswith("A click: the fastest is Tiny, 20.0 ms; no en")
    assert headline(rows[:2], "A click") == (
        "A click: OIS takes 100 ms: 4.0x faster than slow engine"
    )
    assert headline(rows[6:], "A click") == "A click: no engine of OIS was measured"


def test_dots_and_intervals_lie_at_their_values_on_a_log_axis() -> None:
    rows = [time_row("b", 0.2, ours=True), time_row("a", 0.1), TimeRow("c", failed="why not")]
    figure = draw_times(rows, "click")
    axes = only(figure)
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "click, ms (log scale)"
    assert dots(axes) == [(pytest.approx(100), 0), (pytest.approx(200), 1)]
    intervals = [one.get_segments()[0] for one in axes.collections]  # type: ignore[attr-defined]
    assert intervals[1][:, 0] == pytest.approx([196, 204])
    shown = texts(figure)
    assert {"a", "b", "100 ms (98.0 to 102)", "200 ms (196 to 204)"} <= shown
    assert "c: not measured, why not" in shown
    colours = {text.get_text(): text.get_color() for text in axes.get_yticklabels()}
    assert colours == {"a": plotting.PEER, "b": plotting.OURS}


def test_a_time_measured_once_has_no_interval() -> None:
    figure = draw_times([TimeRow("a", 2.0, 2.0, 2.0, remark="noisy")], "click")
    assert not only(figure).collections
    assert "2.00 s, noisy" in texts(figure)


def test_without_a_time_the_picture_still_gives_the_reasons() -> None:
    svg = times_svg([TimeRow("a", failed="no GPU"), TimeRow("b", failed="no code")], "click")
    assert "a: not measured, no GPU" in svg
    assert "b: not measured, no code" in svg


def test_numbers_have_three_digits() -> None:
    numbers = [format_number(value) for value in (0.1442, 14.0, 1440.4, 0)]
    assert numbers == ["0.144", "14.0", "1,440", "0"]
    assert (duration(0.01442), duration(1.5)) == ("14.4 ms", "1.50 s")


# -- roofline ---------------------------------------------------------------------------------


def test_the_roofline_shows_roofs_dots_and_shares() -> None:
    work = [
        Work("ours", "click", True, "fp32", 0.5, 1e11, 1e9),
        Work("peer", "click", False, "bf16", 0.4, 1e10, 4e9),
    ]
    figure = draw_roofline(work, CEILINGS)
    axes = only(figure)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert sorted(dots(axes)) == [
        (pytest.approx(2.5), pytest.approx(25)),
        (pytest.approx(100), pytest.approx(200)),
    ]
    assert {
        "fp32: 400 GFLOP/s",
        "bf16: 800 GFLOP/s",
        "memory: 20.0 GB/s",
        "50% ours",
        "50% peer",
    } <= texts(figure)
    assert "50% ours of the roof: 200 GFLOP/s" in plotting.tips(figure)


# -- load -------------------------------------------------------------------------------------


def test_arrivals_are_drawn_to_scale_with_limit_and_sustained_rate() -> None:
    document = load_document()
    steps = [step_result(10.0), step_result(20.0), step_result(30.0, failed={"TOO_MUCH": 7})]
    figure = draw_arrivals(steps, document["saturation"])
    axes = only(figure)
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    lines = {one.get_label(): one.get_xydata().tolist() for one in axes.lines}  # type: ignore[union-attr]
    assert lines["p50"] == [[one.level, one.latency_ms.p50.value] for one in steps]  # type: ignore[union-attr]
    straight = [one for one in axes.lines if one.get_linestyle() == "--"]
    assert [one.get_ydata()[0] for one in straight[:1]] == [500]  # type: ignore[index]
    assert [one.get_xdata()[0] for one in straight[1:]] == [20]  # type: ignore[index]
    shown = texts(figure)
    assert {"sustained: 20/s", "limit for the 95 % line: 500 ms", "50 % within"} <= shown
    p50 = steps[0].latency_ms.p50
    assert p50 is not None
    said = f"p50 {p50.value:.0f} ms ({p50.low:.0f} to {p50.high:.0f})"
    assert f"10 clicks/s: {said}" in plotting.tips(figure)


def test_a_run_without_arrivals_has_a_table_and_no_chart() -> None:
    load = LoadRun(Source("load.json", {**load_document(), "saturation": None}), [])
    blocks = load_section([load]).blocks
    assert [type(block).__name__ for block in blocks] == ["str", "Table"]


# -- stages -----------------------------------------------------------------------------------


def test_stages_are_as_long_as_they_take() -> None:
    figure = draw_stages([("a", {"queue": 1.0, "decode": 3.0}), ("b", {"decode": 2.0})])
    axes = only(figure)
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]  # type: ignore[attr-defined]
    assert bars == [(0, 1), (1, 3), (0, 2)]
    assert axes.get_xscale() == "linear"
    assert {"a", "b", "1.00", "3.00", "4.00", "2.00"} <= texts(figure)
    assert plotting.tips(figure) == ["queue: 1.00 ms", "decode: 3.00 ms", "decode: 2.00 ms"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["queue", "decode"]


def test_without_stages_there_is_no_chart() -> None:
    assert not stage_section(Inputs()).blocks
