"""IoU-per-click curves as SVG, written by hand: a few lines and polygons need no library.

The picture has no background and its colours stand out against white and black alike, so it
can be read on a light and on a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ois_benchmarks.statistics import Estimate
from ois_client.contract.errors import InvalidInput

#: Contrast of at least 3 with white and with a dark page (#0d1117); distinct in hue and in
#: lightness for the common colour-vision deficiencies.
COLOURS = ("#2f81d8", "#c96a12", "#2e9a58", "#b257c4")
INK = "#7d8590"

WIDTH, HEIGHT = 720, 440
_LEFT, _RIGHT, _BOTTOM = 64, 20, 56
_TITLE, _LEGEND = 20, 20  # heights


@dataclass(frozen=True, slots=True)
class Series:
    """curve[k]: mean IoU after k + 1 clicks, with its interval."""

    name: str
    curve: Sequence[Estimate]


def iou_curves(series: Sequence[Series], title: str) -> str:
    """An SVG document. Raises `InvalidInput` for no series, or more than there are colours."""
    if not 0 < len(series) <= len(COLOURS) or not all(one.curve for one in series):
        raise InvalidInput(
            f"got {len(series)} curves; expected 1 to {len(COLOURS)}, none of them empty"
        )
    frame = _Frame.around(series)
    names = ", ".join(one.name for one in series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" font-family="system-ui, sans-serif" '
        'font-size="13">',
        f"<title>{escape(title)}</title>",
        f"<desc>Mean IoU after each click of {escape(names)}; bands are 95 % intervals.</desc>",
        *frame.axes(),
        f'<text x="{_LEFT}" y="{_TITLE}" font-size="15" fill="{INK}">{escape(title)}</text>',
    ]
    for number, one in enumerate(series):
        parts += frame.draw(one, COLOURS[number])
        parts += _legend(one.name, COLOURS[number], number)
    return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a click and an IoU lie in the picture. The IoU axis ends at 1."""

    clicks: int
    lowest: float
    top: int

    @classmethod
    def around(cls, series: Sequence[Series]) -> _Frame:
        lowest = min(estimate.low for one in series for estimate in one.curve)
        # One tick of air below, so that a band does not lie on the axis.
        return cls(
            max(len(one.curve) for one in series),
            max(0.0, min(0.9, math.floor(lowest * 10 - 0.25) / 10)),
            _TITLE + _LEGEND * len(series) + 20,
        )

    def x(self, click: int) -> float:
        share = (click - 1) / (self.clicks - 1) if self.clicks > 1 else 0.5
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, iou: float) -> float:
        share = (iou - self.lowest) / (1 - self.lowest)
        return HEIGHT - _BOTTOM - share * (HEIGHT - self.top - _BOTTOM)

    def axes(self) -> list[str]:
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        parts = []
        ticks = round((1 - self.lowest) * 10)
        step = 2 if ticks > 6 else 1
        for tick in range(0, ticks + 1, step):
            iou = 1 - tick / 10
            y = self.y(iou)
            parts.append(
                f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{INK}" '
                'stroke-opacity="0.3"/>'
            )
            parts.append(_label(f"{iou:.1f}", _LEFT - 8, y + 4, "end"))
        every = max(1, math.ceil(self.clicks / 20))
        for click in range(1, self.clicks + 1, every):
            parts.append(_label(str(click), self.x(click), bottom + 20, "middle"))
        parts.append(_label("clicks", (_LEFT + right) / 2, HEIGHT - 12, "middle"))
        middle = (self.top + bottom) / 2
        parts.append(
            f'<text transform="translate(18 {middle:.1f}) rotate(-90)" text-anchor="middle" '
            f'fill="{INK}">mean IoU</text>'
        )
        return parts

    def draw(self, one: Series, colour: str) -> list[str]:
        clicks = range(1, len(one.curve) + 1)
        above = [self._point(k, e.high) for k, e in zip(clicks, one.curve, strict=True)]
        below = [self._point(k, e.low) for k, e in zip(clicks, one.curve, strict=True)]
        line = [self._point(k, e.value) for k, e in zip(clicks, one.curve, strict=True)]
        parts = [
            f'<polygon points="{" ".join(above + below[::-1])}" fill="{colour}" '
            'fill-opacity="0.2"/>',
            f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="2"/>',
        ]
        for click, estimate in zip(clicks, one.curve, strict=True):
            x, y = self.x(click), self.y(estimate.value)
            tip = f"{one.name}, click {click}: {estimate.value:.3f}"
            tip += f" ({estimate.low:.3f} to {estimate.high:.3f})"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">'
                f"<title>{escape(tip)}</title></circle>"
            )
        return parts

    def _point(self, click: int, iou: float) -> str:
        return f"{self.x(click):.1f},{self.y(iou):.1f}"


def _label(text: str, x: float, y: float, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{text}</text>'


def _legend(name: str, colour: str, number: int) -> list[str]:
    """Between title and plot, where no curve can run through it."""
    y = _TITLE + _LEGEND * (number + 1)
    return [
        f'<line x1="{_LEFT}" y1="{y - 4}" x2="{_LEFT + 20}" y2="{y - 4}" stroke="{colour}" '
        'stroke-width="2"/>',
        f'<text x="{_LEFT + 28}" y="{y}" fill="{colour}">{escape(name)}</text>',
    ]
