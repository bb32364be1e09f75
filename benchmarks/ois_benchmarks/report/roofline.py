"""The roofline of a machine with every contestant's click, or encode, below it.

Across: FLOPs for each byte that must move. Up: FLOPs a second. A network under the sloping roof
waits for memory, one under the flat roof for arithmetic; how far below the roof it lies is what
its engine leaves unused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ois_benchmarks.report import svg
from ois_benchmarks.report.bars import duration
from ois_benchmarks.roofline import Ceilings
from ois_benchmarks.table import Column, Row, Table

_HEIGHT, _LEFT, _RIGHT = 400, 74, 350


@dataclass(frozen=True, slots=True)
class Work:
    """Something that ran: `what` is "click" or "encode"."""

    label: str
    what: str
    ours: bool
    precision: str
    seconds: float
    flops: float
    bytes_moved: float

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bytes_moved

    @property
    def rate(self) -> float:
        """FLOP/s reached."""
        return self.flops / self.seconds

    def share(self, ceilings: Ceilings) -> float:
        """Of the roof above it, what it reaches."""
        return ceilings.floor_s(self.flops, self.bytes_moved, self.precision) / self.seconds


def headline(work: Sequence[Work], ceilings: Ceilings, where: str) -> str:
    """work: all of one kind. where: said after it, as "on 854x480"."""
    what = "A click" if work[0].what == "click" else "An encode"
    ours = [one for one in work if one.ours]
    if not ours:
        return f"{what} {where}: how near each network comes to what this machine can do"
    best = min(ours, key=lambda one: one.seconds)
    floor = ceilings.floor_s(best.flops, best.bytes_moved, best.precision)
    waits = (
        "arithmetic"
        if best.flops / ceilings.peak(best.precision) >= best.bytes_moved / ceilings.bytes_per_s
        else "memory"
    )
    return (
        f"{what} {where}: {best.label} takes {duration(best.seconds)}, {waits} alone would take "
        f"{duration(floor)}: {best.share(ceilings):.0%} of the roof"
    )


def roofline(work: Sequence[Work], ceilings: Ceilings) -> str:
    """An SVG element; "" for no work."""
    if not work:
        return ""
    top = 8.0
    bottom = top + _HEIGHT
    right = svg.WIDTH - _RIGHT
    ridge = ceilings.fp32_flops / ceilings.bytes_per_s
    x = svg.log_scale([*(one.intensity for one in work), ridge / 2, ridge * 4], _LEFT, right)
    highest = max([*ceilings.peaks().values(), *(one.rate for one in work)])
    y = svg.log_scale(
        [value / 1e9 for value in (highest, min(one.rate for one in work))], bottom, top
    )
    parts = [
        *svg.x_axis(x, top, bottom, "FLOPs a byte moved (log scale)"),
        *svg.y_axis(y, _LEFT, right, "GFLOP/s (log scale)"),
        *_roofs(ceilings, x, y),
    ]
    ordered = sorted(work, key=lambda one: -one.rate)
    labels = svg.spread([y(one.rate / 1e9) for one in ordered], 16, top, bottom)
    for one, place in zip(ordered, labels, strict=True):
        px, py = x(one.intensity), y(one.rate / 1e9)
        kind = "ours" if one.ours else "peer"
        said = f"{one.share(ceilings):.0%} {one.label}"
        parts += [
            svg.polyline([(px, py), (right + 4, place), (right + 10, place)], "leader"),
            svg.circle(px, py, 5, f"dot {kind}", f"{said} of the roof"),
            svg.text(svg.cut(said, _RIGHT - 16), right + 14, place + 4, kind=f"{kind}-text"),
        ]
    description = "; ".join(f"{one.label} {one.rate / 1e9:.0f} GFLOP/s" for one in ordered)
    return svg.picture(parts, height=bottom + 46, description=description)


def table(work: Sequence[Work], ceilings: Ceilings) -> Table:
    columns = [
        Column("contestant", number=False),
        Column("of", number=False),
        Column("arithmetic", number=False),
        Column("GFLOP"),
        Column("GB moved"),
        Column("measured, ms"),
        Column("floor, ms"),
        Column("of the roof"),
    ]
    rows = [
        Row(
            [
                one.label,
                one.what,
                one.precision,
                svg.number(one.flops / 1e9),
                svg.number(one.bytes_moved / 1e9),
                svg.number(one.seconds * 1e3),
                svg.number(1e3 * ceilings.floor_s(one.flops, one.bytes_moved, one.precision)),
                f"{one.share(ceilings):.0%}",
            ],
            strong=one.ours,
        )
        for one in sorted(work, key=lambda one: (one.what, one.seconds))
    ]
    notes = [
        f"Ceilings measured on {ceilings.where}: "
        + ", ".join(f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in ceilings.peaks().items())
        + f", {ceilings.bytes_per_s / 1e9:.1f} GB/s. FLOPs are 2 x multiply-adds of matrix "
        "products and convolutions; bytes are what these read and write if each operand crosses "
        "memory once, nothing for what engines fuse. So a floor is a bound for this way to "
        "compute, not a prediction.",
    ]
    return Table("What was computed, and the least time it could take here", columns, rows, notes)


def _roofs(ceilings: Ceilings, x: svg.Scale, y: svg.Scale) -> list[str]:
    parts = []
    # One line where two precisions are equally fast, as bf16 and fp16 are on a GPU.
    flats: dict[str, float] = {}
    for name, flops in ceilings.peaks().items():
        near = next((other for other, rate in flats.items() if abs(flops / rate - 1) < 0.1), None)
        if near is None:
            flats[name] = flops
        else:
            flats[f"{near}, {name}"] = max(flats.pop(near), flops)
    highest = max(flats.values())
    for name, flops in flats.items():
        ridge = max(flops / ceilings.bytes_per_s, x.low)
        parts += [
            svg.line(x(ridge), y(flops / 1e9), x.end, y(flops / 1e9), "roof"),
            svg.text(
                f"{name}: {flops / 1e9:.0f} GFLOP/s", x.end - 4, y(flops / 1e9) - 6,
                anchor="end", kind="roof-text",
            ),
        ]  # fmt: skip
    begin = max(x.low, 1e9 * y.low / ceilings.bytes_per_s)
    end = min(x.high, highest / ceilings.bytes_per_s)
    if begin < end:
        points = [(x(i), y(i * ceilings.bytes_per_s / 1e9)) for i in (begin, end)]
        (x1, y1), (x2, y2) = points
        tilt = math.degrees(math.atan2(y2 - y1, x2 - x1))
        middle = (x1 + x2) / 2, (y1 + y2) / 2 - 7
        parts += [
            svg.line(x1, y1, x2, y2, "roof"),
            f'<text class="roof-text" text-anchor="middle" transform="translate('
            f'{middle[0]:.1f} {middle[1]:.1f}) rotate({tilt:.1f})">memory: '
            f"{ceilings.bytes_per_s / 1e9:.1f} GB/s</text>",
        ]
    return parts
