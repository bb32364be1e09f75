"""The few shapes and scales that the report's pictures are made of.

Pictures stand inside the report's page: colours and fonts are classes of its style sheet, so
they follow its light and dark theme. Coordinates are pixels, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

from ois_client.contract.errors import InvalidInput

WIDTH = 980
#: Average width of a character of the page's font as a share of its size; labels are cut by it.
_CHARACTER = 0.6
FONT = 13


@dataclass(frozen=True, slots=True)
class Scale:
    """Values low..high onto pixels start..end; logarithmic where `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (self.low < self.high and (self.low > 0 or not self.log)):
            raise InvalidInput(f"got a scale from {self.low} to {self.high}; it must rise")

    def __call__(self, value: float) -> float:
        """The pixel of `value`; beyond the ends, the end."""
        clipped = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(clipped / self.low) / math.log(self.high / self.low)
        else:
            share = (clipped - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside: 1, 2, 5, 10, ... or powers of ten, or about five equal steps."""
        if self.log:
            return self._log_ticks()
        step = _round_up((self.high - self.low) / 6)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        wide = last - first > 4
        made = [
            factor * 10.0**power
            for power in range(first, last + 1)
            for factor in ((1,) if wide else (1, 2, 5))
        ]
        return [tick for tick in made if self.low * 0.999 <= tick <= self.high * 1.001]


def log_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """A logarithmic scale with some air around positive values."""
    found = [value for value in values if value > 0]
    return Scale(min(found) / 1.35, max(found) * 1.35, start, end, log=True)


def number(value: float) -> str:
    """Three digits, without an exponent: 0.144, 14.0, 1,440."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def short(value: float) -> str:
    """`number` without zeros at its end, for axes: 0.5, 14, 1,440."""
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places moved apart to at least `gap`, in their order, between low and high if they fit."""
    order = sorted(range(len(places)), key=lambda n: places[n])
    moved = [places[n] for n in order]
    for _ in range(200):
        worst = 0.0
        for n, (above, below) in enumerate(pairwise(moved)):
            lacking = gap - (below - above)
            if lacking > 1e-6:
                moved[n], moved[n + 1] = above - lacking / 2, below + lacking / 2
                worst = max(worst, lacking)
        if moved and moved[0] < low:
            moved[0] = low
        if moved and moved[-1] > high and high - low >= gap * (len(moved) - 1):
            moved[-1] = high
        if worst < 0.1:
            break
    found = [0.0] * len(places)
    for n, place in zip(order, moved, strict=True):
        found[n] = place
    return found


def picture(parts: Iterable[str], *, height: float, description: str) -> str:
    """An inline SVG element. description: what it shows, for those who cannot see it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
            f'width="{WIDTH}" height="{height:.0f}" role="img">',
            f"<desc>{escape(description)}</desc>",
            *parts,
            "</svg>",
        ]
    )


def text(content: str, x: float, y: float, *, anchor: str = "start", kind: str = "label") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(content)}</text>"
    )


def upright(content: str, x: float, y: float) -> str:
    """Text from bottom to top, for an axis."""
    return (
        f'<text class="label" transform="translate({x:.1f} {y:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(content)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def polyline(points: Iterable[tuple[float, float]], kind: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{joined}"/>'


def polygon(points: Iterable[tuple[float, float]], kind: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polygon class="{kind}" points="{joined}"/>'


def circle(x: float, y: float, radius: float, kind: str, tip: str = "") -> str:
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{inside}</circle>'


def box(x: float, y: float, width: float, height: float, kind: str, tip: str = "") -> str:
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" '
        f'height="{height:.1f}">{inside}</rect>'
    )


def x_axis(scale: Scale, top: float, bottom: float, name: str) -> list[str]:
    """Grid lines with their values below, and the axis's name with its unit."""
    parts = []
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(line(x, top, x, bottom, "grid"))
        parts.append(text(short(tick), x, bottom + 17, anchor="middle"))
    parts.append(text(name, (scale.start + scale.end) / 2, bottom + 37, anchor="middle"))
    return parts


def y_axis(scale: Scale, left: float, right: float, name: str) -> list[str]:
    parts = []
    for tick in scale.ticks():
        y = scale(tick)
        parts.append(line(left, y, right, y, "grid"))
        parts.append(text(short(tick), left - 8, y + 4, anchor="end"))
    parts.append(upright(name, left - 52, (scale.start + scale.end) / 2))
    return parts


def cut(content: str, width: float, size: float = FONT) -> str:
    """`content`, shortened to about `width` pixels."""
    most = max(1, int(width / (_CHARACTER * size)))
    return content if len(content) <= most else content[: most - 1].rstrip() + "…"


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= value * 0.999)
