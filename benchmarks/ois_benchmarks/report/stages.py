"""The parts of a click's time: stacked bars of the server's stages and of the loop's parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ois_benchmarks import plotting
from ois_benchmarks.latency.result import Definition
from ois_benchmarks.report.inputs import Inputs
from ois_benchmarks.report.latency import loop_parts
from ois_benchmarks.report.page import Block, Chart, Section
from ois_benchmarks.statistics import STAGES
from ois_benchmarks.table import format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW, _RIGHT, _TOP, _AXIS = 40, 90, 34, 50
#: Widest left margin in pixels; labels that need more are cut.
_MOST_LEFT = 480
#: Pixels that a number needs inside its part of a bar.
_ROOM = 44

#: A label, and its parts in ms in the order in which they happen.
Bar = tuple[str, Mapping[str, float]]


def stage_section(inputs: Inputs) -> Section:
    """Stages of clicks through a server, and parts of the clicks of evaluation loops."""
    blocks: list[Block] = []
    served = _timed(_served_clicks(inputs))
    if served:
        caption = (
            "Medians by stage. queue: waiting in the server; decode: the click engine; "
            "postprocess: logits to a mask of the image's size; encode mask: to bytes; rest: "
            "protocol, copies and the client."
        )
        title = f"A click through a server: {_largest(*served[0])}"
        blocks.append(Chart(_svg(served), title, caption))
    for one in inputs.latency:
        loops = _timed(loop_parts(one.result))
        if loops:
            title = f"A click of the evaluation loop: {_largest(*loops[0])}"
            caption = f"loop: {Definition.LOOP.meaning}."
            blocks.append(Chart(_svg(loops), title, caption))
    return Section("Where the time goes", blocks)


@plotting.styled
def draw_stages(bars: Sequence[Bar]) -> Figure:
    """Draw one stacked bar per row of `bars`, at least one, from zero on a linear axis."""
    left = min(_MOST_LEFT, max(plotting.text_width(label) for label, _ in bars) + 16)
    figure, axes = plotting.new_axes(
        _TOP + _ROW * len(bars) + _AXIS, left=left, right=_RIGHT, top=_TOP, bottom=_AXIS
    )
    names = list(dict.fromkeys(name for _, parts in bars for name in parts))
    colours = {name: plotting.PARTS[n % len(plotting.PARTS)] for n, name in enumerate(names)}
    longest = max(sum(parts.values()) for _, parts in bars)
    axes.set_xlim(0, longest)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlabel("ms", labelpad=6)
    axes.set_yticks(range(len(bars)), [plotting.shorten(label, left - 12) for label, _ in bars])
    axes.grid(visible=False, axis="y")
    pixels = (plotting.WIDTH - left - _RIGHT) / longest
    for place, (_, parts) in enumerate(bars):
        start = 0.0
        for name, value in parts.items():
            (bar,) = axes.barh(place, value, 0.6, left=start, color=colours[name])
            plotting.set_tip(bar, f"{_plain(name)}: {format_number(value)} ms")
            if value * pixels > _ROOM:
                axes.text(
                    start + value / 2, place, format_number(value), ha="center",
                    va="center_baseline", color=plotting.INSIDE,
                )  # fmt: skip
            start += value
        axes.annotate(
            format_number(start), (start, place), (8, 0), textcoords="offset pixels",
            va="center_baseline", color=plotting.INK, fontweight="bold",
        )  # fmt: skip
    _draw_legend(axes, colours)
    return figure


def _svg(bars: Sequence[Bar]) -> str:
    said = (f"{label}: {format_number(sum(parts.values()))} ms" for label, parts in bars)
    return plotting.to_svg(draw_stages(bars), "; ".join(said))


def _draw_legend(axes: Axes, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    axes.legend(
        [Patch(color=colour) for colour in colours.values()],
        [_plain(name) for name in colours],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(colours),
        borderpad=0,
        borderaxespad=0.6,
        handlelength=1,
        handleheight=1,
        columnspacing=1.6,
    )


def _timed(bars: Iterator[Bar] | Sequence[Bar]) -> list[Bar]:
    return [(label, parts) for label, parts in bars if sum(parts.values()) > 0]


def _served_clicks(inputs: Inputs) -> Iterator[Bar]:
    """Clicks that did not wait for other users' clicks, where a run has such a step."""
    for load in inputs.load:
        timed = [one for one in load.steps if one.stages_ms]
        alone = [one for one in timed if one.pace == "warm"] or timed
        if alone:
            document = load.source.document
            name = f"{document['model']['network']}, {document['target']['protocol']}"
            yield name, alone[0].stages_ms
    for source in inputs.overhead:
        for client, row in source.document["single"].items():
            found = {name: row[f"{name}_ms"] for name in (*STAGES, "rest") if f"{name}_ms" in row}
            yield f"{source.document['network']}, {client}", found


def _largest(label: str, parts: Mapping[str, float]) -> str:
    part = max(parts, key=lambda one: parts[one])
    return f"{_plain(part)} takes {parts[part] / sum(parts.values()):.0%} of the time ({label})"


def _plain(name: str) -> str:
    return name.replace("_", " ")
