"""Times of several contestants with their intervals, one a row, on a logarithmic scale.

A dot marks the median and a bracket its 95 % interval. The thin line to the dot only guides the
eye: on a logarithmic scale lengths from the axis mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ois_benchmarks.report import svg

_ROW, _LEFT, _RIGHT = 27, 330, 300


@dataclass(frozen=True, slots=True)
class Bar:
    """Seconds. ours: one of OIS's engines. rank: of a peer that headlines always name, the first
    being 0; None for others. failed: why there are no numbers. remark: what a reader must know,
    beside the number.
    """

    label: str
    seconds: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    ours: bool = False
    rank: int | None = None
    failed: str | None = None
    remark: str = ""


def bars(rows: Sequence[Bar], what: str) -> str:
    """An SVG element; fastest first, contestants without numbers last. what: for the axis."""
    ran = sorted((row for row in rows if row.failed is None), key=lambda row: row.seconds)
    absent = [row for row in rows if row.failed is not None]
    unit, factor = ("s", 1.0) if ran and ran[len(ran) // 2].seconds >= 1 else ("ms", 1e3)
    top = 6.0
    bottom = top + _ROW * len(ran) + 4
    parts = []
    if ran:
        values = [value * factor for row in ran for value in (row.low_s, row.seconds, row.high_s)]
        scale = svg.log_scale(values, _LEFT, svg.WIDTH - _RIGHT)
        parts += svg.x_axis(scale, top, bottom, f"{what}, {unit} (log scale)")
        for number, row in enumerate(ran):
            parts += _row(row, top + _ROW * (number + 0.5), scale, factor, unit)
    height = bottom + (48 if ran else 0)
    for row in absent:
        height += 20
        reason = f"{row.label}: not measured, {row.failed}"
        parts.append(svg.text(svg.cut(reason, svg.WIDTH), 0, height, kind="muted"))
    return svg.picture(parts, height=height + 12, description=_description(ran))


def headline(rows: Sequence[Bar], what: str) -> str:
    """The fastest of ours against the named peers, wins and losses alike, and the fastest peer."""
    ran = sorted((row for row in rows if row.failed is None), key=lambda row: row.seconds)
    ours = next((row for row in ran if row.ours), None)
    if ours is None:
        fastest = f"the fastest is {ran[0].label}, {duration(ran[0].seconds)}; " if ran else ""
        return f"{what}: {fastest}no engine of OIS was measured"
    peers = [row for row in ran if not row.ours]
    named = sorted((row for row in peers if row.rank is not None), key=lambda row: row.rank or 0)
    if not named:
        named = peers[:1] or [row for row in ran if row is not ours][-1:]
    text = f"{what}: {ours.label} takes {duration(ours.seconds)}"
    if named:
        text += ": " + ", ".join(f"{_ratio(ours, peer)} {peer.label}" for peer in named)
    if peers and peers[0] not in named:
        text += f"; the fastest peer is {peers[0].label}, {duration(peers[0].seconds)}"
    return text


def duration(seconds: float) -> str:
    return f"{svg.number(seconds)} s" if seconds >= 1 else f"{svg.number(seconds * 1e3)} ms"


def _ratio(ours: Bar, other: Bar) -> str:
    if ours.low_s <= other.high_s and other.low_s <= ours.high_s:
        return "about as fast as"
    if ours.seconds < other.seconds:
        return f"{_times(other.seconds / ours.seconds)} faster than"
    return f"{_times(ours.seconds / other.seconds)} slower than"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def _row(row: Bar, y: float, scale: svg.Scale, factor: float, unit: str) -> list[str]:
    kind = "ours" if row.ours else "peer"
    low, middle, high = (scale(v * factor) for v in (row.low_s, row.seconds, row.high_s))
    value = f"{svg.number(row.seconds * factor)} {unit}"
    interval = f"{svg.number(row.low_s * factor)} to {svg.number(row.high_s * factor)}"
    tip = f"{row.label}: {value} ({interval})"
    known = f" ({interval})" if row.low_s < row.high_s else ""
    said = f"{value}{known}{', ' + row.remark if row.remark else ''}"
    beside = max(high, middle) + 12
    return [
        svg.text(
            svg.cut(row.label, _LEFT - 12), _LEFT - 10, y + 4, anchor="end", kind=f"{kind}-text"
        ),
        svg.line(_LEFT, y, middle, y, f"stem {kind}"),
        svg.line(low, y, high, y, f"range {kind}"),
        svg.line(low, y - 5, low, y + 5, f"range {kind}"),
        svg.line(high, y - 5, high, y + 5, f"range {kind}"),
        svg.circle(middle, y, 5, f"dot {kind}", tip),
        svg.text(svg.cut(said, svg.WIDTH - beside), beside, y + 4, kind=f"{kind}-text"),
    ]


def _description(ran: Sequence[Bar]) -> str:
    return "; ".join(f"{row.label} {duration(row.seconds)}" for row in ran)
