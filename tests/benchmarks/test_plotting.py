"""Charts are SVG that stands alone, stays the same, and can be read on light and dark pages."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from ois_benchmarks import plotting
from ois_client.contract.errors import InvalidInput

SVG = "{http://www.w3.org/2000/svg}"


@plotting.styled
def drawn(text: str = "words", description: str = "what it shows") -> str:
    figure, axes = plotting.new_axes(100, left=40, right=10, top=5, bottom=30)
    (dot,) = axes.plot([1], [2], "o", color=plotting.BLUE)
    plotting.set_tip(dot, f"{text}: 2")
    axes.text(1, 2, text, color=plotting.BLUE)
    assert plotting.tips(figure) == [f"{text}: 2"]
    return plotting.to_svg(figure, description, text)


def test_equal_figures_give_equal_text() -> None:
    assert drawn() == drawn()


def test_names_are_text_whatever_they_contain() -> None:
    name = 'a <b> & "c" $x^2$'
    picture = ElementTree.fromstring(drawn(name))
    assert name in [element.text for element in picture.iter(f"{SVG}text")]
    assert [element.text for element in picture.iter(f"{SVG}title")] == [name, f"{name}: 2"]
    assert picture.find(f"{SVG}desc").text == "what it shows"  # type: ignore[union-attr]


def test_two_pictures_on_a_page_share_no_id_and_load_nothing() -> None:
    first, second = drawn(description="one"), drawn(description="two")
    ids = [set(re.findall(r'id="([^"]+)"', picture)) for picture in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'href="#([^"]+)"', first)) <= ids[0]
    for word in ("url(", "<style", "<script", "<metadata", "matplotlib"):
        assert word not in first


def test_sizes_are_pixels() -> None:
    picture = ElementTree.fromstring(drawn())
    assert picture.attrib["viewBox"] == f"0 0 {plotting.WIDTH} 100"
    figure, axes = plotting.new_axes(100, left=40, right=10, top=5, bottom=30)
    box = axes.get_window_extent()
    assert (box.x0, box.x1) == pytest.approx((40, plotting.WIDTH - 10))
    assert (box.y0, box.y1) == pytest.approx((30, 95))
    assert figure.dpi == 72


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of #rrggbb."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    "colour",
    [*plotting.SERIES, *plotting.PARTS, plotting.OURS, plotting.PEER, plotting.RED, plotting.INK],
)
def test_every_colour_can_be_seen_on_a_light_and_on_a_dark_page(colour: str) -> None:
    assert contrast(colour, "#ffffff") >= 3
    assert contrast(colour, "#0d1117") >= 3


@pytest.mark.parametrize("colour", plotting.PARTS)
def test_a_number_can_be_read_inside_every_part_of_a_bar(colour: str) -> None:
    assert contrast(colour, plotting.INSIDE) >= 4.3


def test_the_page_chooses_the_colour_of_text_and_of_nothing_else() -> None:
    svg = plotting.themed(drawn())
    assert re.search(rf"<text [^>]*fill: var\(--blue, {plotting.BLUE}\)", svg)
    assert re.search(rf"<use [^>]*fill: {plotting.BLUE}", svg)


def test_log_axes_label_round_values() -> None:
    assert plotting.log_ticks(0.04, 2.7) == [0.05, 0.1, 0.2, 0.5, 1, 2]
    assert plotting.log_ticks(400, 2500) == [500, 1000, 2000]
    assert plotting.log_ticks(1, 1e6) == [1, 10, 100, 1e3, 1e4, 1e5, 1e6]
    assert plotting.log_ticks(120, 900) == [200, 300, 500]
    assert plotting.log_ticks(240, 440) == [300, 400]
    _, axes = plotting.new_axes(100, left=40)
    plotting.set_log_axis(axes, "x", 0.4, 800)
    assert axes.get_xscale() == "log"
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert {"0.5", "10", "500"} <= set(labels)


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    moved = plotting.spread([10, 11, 12, 90], 16, 0, 100)
    assert moved == sorted(moved)
    assert all(b - a >= 15.8 for a, b in pairwise(moved))
    assert plotting.spread([50, 10], 16, 0, 100) == [50, 10]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidInput, match=r"ois-deploy\[bench\]"):
        plotting.new_axes(100)


def test_matplotlib_is_imported_only_when_a_chart_is_drawn() -> None:
    code = (
        "import sys, ois_benchmarks.report.build, ois_benchmarks.quality.curves;"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
