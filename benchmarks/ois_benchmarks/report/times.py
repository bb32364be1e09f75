"""Times of several contestants with their intervals: the chart and its headline.

The chart has one row per contestant on a logarithmic axis. A dot marks the median, a bracket its
95 % interval. The thin line to the dot only guides the eye: lengths on a logarithmic axis have no
meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ois_benchmarks import plotting
from ois_benchmarks.table import format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW, _LINE = 27, 20  # heights in pixels
_LEFT, _AXIS = 390, 50
#: Least width beside the axes for the numbers; remarks need more.
_LEAST_RIGHT = 290


@dataclass(frozen=True, slots=True)
class TimeRow:
    """One contestant. Times in seconds; low_s and high_s are the 95 % interval.

    ours: one of OIS's engines. rank: order among the peers that every headline names, 0 = first;
    None for other peers. failed: why there is no time. remark: shown beside the number.
    """

    label: str
    seconds: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    ours: bool = False
    rank: int | None = None
    failed: str | None = None
    remark: str = ""


@plotting.styled
def draw_times(rows: Sequence[TimeRow], what: str) -> Figure:
    """Draw the rows, fastest first. Below them, say which were not measured and why.

    what: the quantity, for the axis.
    """
    ran = _fastest_first(rows)
    absent = [row for row in rows if row.failed is not None]
    unit, factor = ("s", 1.0) if ran and ran[len(ran) // 2].seconds >= 1 else ("ms", 1e3)
    longest = max((plotting.text_width(_number(row, factor, unit)) for row in ran), default=0)
    chart = _ROW * len(ran) + _AXIS if ran else 0
    figure, axes = plotting.new_axes(
        chart + _LINE * len(absent) + 8,
        left=_LEFT,
        right=max(_LEAST_RIGHT, 1.1 * longest),  # bold text is wider
        top=4,
        bottom=_AXIS + _LINE * len(absent),
    )
    if ran:
        _set_axes(axes, ran, factor)
        axes.set_xlabel(f"{what}, {unit} (log scale)", labelpad=6)
        for place, row in enumerate(ran):
            _draw_row(axes, place, row, factor, unit)
    else:
        axes.set_axis_off()
    height = 72 * figure.get_size_inches()[1]
    for number, row in enumerate(absent):
        text = f"{row.label}: not measured, {row.failed}"
        below = chart + _LINE * number + 14
        said = figure.text(0, 1 - below / height, plotting.shorten(text, plotting.WIDTH))
        plotting.set_tip(said, text)
    return figure


def times_svg(rows: Sequence[TimeRow], what: str) -> str:
    """`draw_times` as an SVG element."""
    ran = _fastest_first(rows)
    said = "; ".join(f"{row.label} {duration(row.seconds)}" for row in ran)
    return plotting.to_svg(draw_times(rows, what), f"{what}: {said or 'not measured'}")


def headline(rows: Sequence[TimeRow], what: str) -> str:
    """Compare the fastest of ours with the named peers, faster or slower, and the fastest peer."""
    ran = _fastest_first(rows)
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
    """Three significant digits with their unit: s, or ms below one second."""
    if seconds >= 1:
        return f"{format_number(seconds)} s"
    return f"{format_number(seconds * 1e3)} ms"


def _fastest_first(rows: Sequence[TimeRow]) -> list[TimeRow]:
    return sorted((row for row in rows if row.failed is None), key=lambda row: row.seconds)


def _ratio(ours: TimeRow, other: TimeRow) -> str:
    if ours.low_s <= other.high_s and other.low_s <= ours.high_s:
        return "about as fast as"
    if ours.seconds < other.seconds:
        return f"{_times(other.seconds / ours.seconds)} faster than"
    return f"{_times(ours.seconds / other.seconds)} slower than"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def _set_axes(axes: Axes, ran: Sequence[TimeRow], factor: float) -> None:
    lowest = min(min(row.low_s, row.seconds) for row in ran) * factor
    highest = max(max(row.high_s, row.seconds) for row in ran) * factor
    plotting.set_log_axis(axes, "x", lowest / 1.35, highest * 1.35)
    axes.set_ylim(len(ran) - 0.5, -0.5)
    labels = [plotting.shorten(row.label, _LEFT - 12) for row in ran]
    axes.set_yticks(range(len(ran)), labels)
    axes.grid(visible=False, axis="y")
    for text, row in zip(axes.get_yticklabels(), ran, strict=True):
        text.set_color(_colour(row))
        text.set_fontweight(_weight(row))


def _draw_row(axes: Axes, place: int, row: TimeRow, factor: float, unit: str) -> None:
    colour = _colour(row)
    low, middle, high = (factor * value for value in (row.low_s, row.seconds, row.high_s))
    axes.plot([axes.get_xlim()[0], middle], [place, place], color=colour, linewidth=1, alpha=0.45)
    if low < high:  # otherwise it was measured once
        axes.errorbar(
            [middle],
            [place],
            xerr=[[max(0.0, middle - low)], [max(0.0, high - middle)]],
            color=colour,
            elinewidth=2,
            capsize=6,
            capthick=2,
        )
    axes.plot([middle], [place], "o", color=colour, markersize=6.5)
    axes.annotate(
        _number(row, factor, unit),
        (max(high, middle), place),
        (12, 0),
        textcoords="offset pixels",
        va="center_baseline",
        color=colour,
        fontweight=_weight(row),
    )


def _number(row: TimeRow, factor: float, unit: str) -> str:
    """The median, its interval and the remark, as text."""
    low, high = (format_number(factor * value) for value in (row.low_s, row.high_s))
    interval = f" ({low} to {high})" if row.low_s < row.high_s else ""
    remark = f", {row.remark}" if row.remark else ""
    return f"{format_number(factor * row.seconds)} {unit}{interval}{remark}"


def _colour(row: TimeRow) -> str:
    return plotting.OURS if row.ours else plotting.PEER


def _weight(row: TimeRow) -> str:
    return "bold" if row.ours else "normal"
