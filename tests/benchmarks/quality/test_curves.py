"""The IoU curve is a well-formed picture whose points lie where the numbers are."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from ois_benchmarks.quality.curves import COLOURS, HEIGHT, INK, WIDTH, Series, iou_curves
from ois_benchmarks.statistics import Estimate
from ois_client.contract.errors import InvalidInput

SVG = "{http://www.w3.org/2000/svg}"


def series(name: str, *values: float) -> Series:
    return Series(name, [Estimate(v, v - 0.04, min(1.0, v + 0.04)) for v in values])


def draw(*all_series: Series, title: str = "scenes") -> ElementTree.Element:
    return ElementTree.fromstring(iou_curves(all_series, title))


def points(element: ElementTree.Element) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in element.attrib["points"].split()]
    return [(float(x), float(y)) for x, y in pairs]


def iou_axis(picture: ElementTree.Element) -> dict[float, float]:
    """IoU of a tick's label -> the height of its grid line."""
    labels = [float(t.text or "") for t in picture.iter(f"{SVG}text") if "." in (t.text or "")]
    lines = [float(e.attrib["y1"]) for e in picture.iter(f"{SVG}line") if "stroke-opacity" in
             e.attrib]  # fmt: skip
    return dict(zip(labels, lines, strict=True))


def test_points_lie_at_their_values_between_the_labelled_grid_lines() -> None:
    picture = draw(series("a", 0.7, 0.8, 0.95))
    axis = iou_axis(picture)
    (line,) = picture.iter(f"{SVG}polyline")
    got = points(line)
    assert got[1][1] == pytest.approx(axis[0.8], abs=0.1)
    assert got[0][1] == pytest.approx(axis[0.7], abs=0.1)
    assert got[2][1] == pytest.approx((axis[0.9] + axis[1.0]) / 2, abs=0.1)
    assert got[1][0] - got[0][0] == pytest.approx(got[2][0] - got[1][0], abs=0.1)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in got)


def test_the_band_is_the_interval() -> None:
    picture = draw(series("a", 0.7, 0.9))
    (band,), axis = list(picture.iter(f"{SVG}polygon")), iou_axis(picture)
    heights = [y for _, y in points(band)]
    unit = (axis[0.9] - axis[1.0]) / 0.1
    expected = [axis[1.0] + (1 - iou) * unit for iou in (0.74, 0.94, 0.86, 0.66)]
    assert heights == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("value", [0.0, 0.04, 0.5, 0.93, 1.0])
def test_every_value_is_inside_the_picture(value: float) -> None:
    picture = draw(Series("a", [Estimate(value, max(0.0, value - 0.04), min(1.0, value + 0.04))]))
    axis = iou_axis(picture)
    (line,) = picture.iter(f"{SVG}polyline")
    ((x, y),) = points(line)
    assert axis[1.0] <= y <= max(axis.values())
    assert 0 < x < WIDTH


def test_curves_of_other_lengths_share_the_click_axis() -> None:
    short, long = draw(series("a", 0.5, 0.6), series("b", 0.5, 0.6, 0.7)).iter(f"{SVG}polyline")
    assert [x for x, _ in points(short)] == [x for x, _ in points(long)][:2]


def test_names_are_text_whatever_they_contain() -> None:
    name = 'a <b> & "c"'
    picture = draw(series(name, 0.5), title="x < y")
    texts = [element.text for element in picture.iter(f"{SVG}text")]
    assert name in texts
    assert "x < y" in texts
    assert picture.find(f"{SVG}title").text == "x < y"  # type: ignore[union-attr]


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of #rrggbb."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [*COLOURS, INK])
@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
def test_every_colour_can_be_read_on_a_light_and_on_a_dark_page(colour: str, page: str) -> None:
    low, high = sorted((luminance(colour), luminance(page)))
    assert (high + 0.05) / (low + 0.05) >= 3


@pytest.mark.parametrize("count", [0, 5])
def test_as_many_curves_as_there_are_colours(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"got {count} curves"):
        iou_curves([series("a", 0.5)] * count, "")
    with pytest.raises(InvalidInput, match="empty"):
        iou_curves([Series("a", [])], "")
