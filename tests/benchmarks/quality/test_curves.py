"""The IoU chart shows the numbers where they belong."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes

from ois_benchmarks import plotting
from ois_benchmarks.quality.curves import Curve, curves_svg, draw_curves
from ois_benchmarks.statistics import Estimate
from ois_client.contract.errors import InvalidInput


def curve(name: str, *values: float) -> Curve:
    return Curve(name, [Estimate(v, v - 0.04, min(1.0, v + 0.04)) for v in values])


def draw(*curves: Curve) -> Axes:
    (axes,) = draw_curves(curves, "scenes").axes
    return axes


def line(axes: Axes, name: str) -> list[list[float]]:
    (found,) = (one for one in axes.lines if one.get_label() == name)
    return found.get_xydata().tolist()  # type: ignore[union-attr]


def test_points_lie_at_their_values() -> None:
    axes = draw(curve("a", 0.7, 0.8, 0.95))
    assert line(axes, "a") == [[1, 0.7], [2, 0.8], [3, 0.95]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    assert axes.get_ylim()[1] == 1
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "1.0", "0.9", "0.8", "0.7", "0.6",
    ]  # fmt: skip
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("clicks", "mean IoU")


def test_the_band_is_the_interval() -> None:
    (band,) = draw(curve("a", 0.7, 0.9)).collections
    corners = {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(1, 0.66), (1, 0.74), (2, 0.86), (2, 0.94)}


def test_every_number_is_shown_when_the_pointer_is_over_its_point() -> None:
    figure = draw_curves([curve("a", 0.7, 0.9)], "")
    assert plotting.tips(figure) == [
        "a, click 1: 0.700 (0.660 to 0.740)",
        "a, click 2: 0.900 (0.860 to 0.940)",
    ]


@pytest.mark.parametrize("value", [0.0, 0.04, 0.5, 0.93, 1.0])
def test_every_value_is_inside_the_axes(value: float) -> None:
    axes = draw(Curve("a", [Estimate(value, max(0.0, value - 0.04), min(1.0, value + 0.04))]))
    ((x, y),) = line(axes, "a")
    assert axes.get_ylim()[0] <= y <= axes.get_ylim()[1]
    assert axes.get_xlim()[0] < x < axes.get_xlim()[1]


def test_curves_of_other_lengths_share_the_click_axis() -> None:
    axes = draw(curve("a", 0.5, 0.6), curve("b", 0.5, 0.6, 0.7))
    assert [x for x, _ in line(axes, "a")] == [x for x, _ in line(axes, "b")][:2]
    colours = {one.get_color() for one in axes.lines}
    assert colours == set(plotting.SERIES[:2])


def test_names_and_title_are_text_whatever_they_contain() -> None:
    name = 'a <b> & "c"'
    picture = ElementTree.fromstring(curves_svg([curve(name, 0.5)], "x < y"))
    texts = [element.text for element in picture.iter() if element.tag.endswith("}text")]
    assert {name, "x < y"} <= set(texts)
    assert picture[0].text == "x < y"


@pytest.mark.parametrize("count", [0, 5])
def test_as_many_curves_as_there_are_colours(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"got {count} curves"):
        curves_svg([curve("a", 0.5)] * count, "")
    with pytest.raises(InvalidInput, match="empty"):
        curves_svg([Curve("a", [])], "")
