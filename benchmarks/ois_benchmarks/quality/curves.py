"""IoU-per-click curves as SVG, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ois_benchmarks import plotting
from ois_benchmarks.statistics import Estimate
from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _BOTTOM = 70, 20, 54
_LINE = 20  # height of the title and of each name


@dataclass(frozen=True, slots=True)
class Curve:
    """points[k]: mean IoU after k + 1 clicks, with its interval."""

    name: str
    points: Sequence[Estimate]


@plotting.styled
def draw_curves(curves: Sequence[Curve], title: str) -> Figure:
    """Draw mean IoU over clicks, with bands for the intervals.

    Raises `InvalidInput` for no curve, an empty one, or more than there are colours.
    """
    if not 0 < len(curves) <= len(plotting.SERIES) or not all(one.points for one in curves):
        raise InvalidInput(
            f"got {len(curves)} curves; expected 1 to {len(plotting.SERIES)}, none of them empty; "
            "draw the others in a chart of their own"
        )
    top = _LINE * (len(curves) + 1) + 14
    figure, axes = plotting.new_axes(
        _HEIGHT, width=_WIDTH, left=_LEFT, right=_RIGHT, top=top, bottom=_BOTTOM
    )
    figure.text(_LEFT / _WIDTH, 1 - 16 / _HEIGHT, title, fontsize=15)
    clicks = max(len(one.points) for one in curves)
    lowest = min(point.low for one in curves for point in one.points)
    # One tick of space below, so that no band lies on the axis.
    bottom = max(0.0, min(0.9, math.floor(lowest * 10 - 0.25) / 10))
    axes.set_xlim((0.98, clicks + 0.02 * clicks) if clicks > 1 else (0.5, 1.5))
    axes.set_ylim(bottom, 1)
    axes.set_xticks(range(1, clicks + 1, max(1, math.ceil(clicks / 20))))
    steps = round((1 - bottom) * 10)
    axes.set_yticks([1 - n / 10 for n in range(0, steps + 1, 2 if steps > 6 else 1)])
    axes.yaxis.set_major_formatter("{x:.1f}")
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("clicks")
    axes.set_ylabel("mean IoU", labelpad=8)
    for number, (one, colour) in enumerate(zip(curves, plotting.SERIES, strict=False)):
        at = range(1, len(one.points) + 1)
        lows, highs = [point.low for point in one.points], [point.high for point in one.points]
        axes.fill_between(at, lows, highs, color=colour, alpha=0.2, linewidth=0)
        axes.plot(at, [point.value for point in one.points], color=colour, label=one.name)
        for click, point in zip(at, one.points, strict=True):
            (dot,) = axes.plot([click], [point.value], "o", markersize=5, color=colour)
            interval = f"{point.low:.3f} to {point.high:.3f}"
            tip = f"{one.name}, click {click}: {point.value:.3f} ({interval})"
            plotting.set_tip(dot, tip)
        # The names stand between title and axes, where no curve can run through them.
        place = 1 - (16 + _LINE * (number + 1)) / _HEIGHT
        figure.text(_LEFT / _WIDTH, place, "—", color=colour, fontweight="bold")
        figure.text((_LEFT + 24) / _WIDTH, place, one.name, color=colour)
    return figure


def curves_svg(curves: Sequence[Curve], title: str) -> str:
    """`draw_curves` as an SVG element, which is also a document of its own."""
    names = ", ".join(one.name for one in curves)
    description = f"Mean IoU after each click of {names}; bands are 95 % intervals."
    return plotting.to_svg(draw_curves(curves, title), description, title)
