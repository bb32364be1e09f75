"""Load runs: latency against the rate of arriving clicks, and a table of every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ois_benchmarks import plotting
from ois_benchmarks.load.result import StepResult, describe_saturation
from ois_benchmarks.report.inputs import LoadRun, describe_machine
from ois_benchmarks.report.page import Block, Chart, Section
from ois_benchmarks.statistics import Estimate
from ois_benchmarks.table import Column, Table, TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT, _LEFT, _RIGHT, _AXIS = 410, 84, 110, 50
_QUANTILES = {"p50": "50 %", "p95": "95 %", "p99": "99 %"}


def load_section(loads: Sequence[LoadRun]) -> Section:
    """Each run: its conditions, the chart of its arrivals where it has some, and its steps."""
    blocks: list[Block] = []
    for load in loads:
        document = load.source.document
        saturation = document.get("saturation")
        blocks.append(_describe(load))
        ramp = _ramp(load.steps)
        if saturation is not None and ramp:
            title = f"{document['model']['network']}, {describe_saturation(saturation)}"
            description = "; ".join(
                f"{one.level:g} clicks/s: p50 {one.latency_ms.p50.value:.0f} ms"
                for one in ramp
                if one.latency_ms.p50
            )
            svg = plotting.to_svg(draw_arrivals(load.steps, saturation), description)
            caption = "Bands are 95 % intervals. The vertical line is the highest sustained rate."
            blocks.append(Chart(svg, title, caption))
        blocks.append(steps_table(load.steps, document["plan"]["limit_ms"]))
    return Section("Many users at once", blocks)


@plotting.styled
def draw_arrivals(steps: Sequence[StepResult], saturation: Mapping[str, Any]) -> Figure:
    """Draw latency over the rate of arriving clicks, with the limit and the sustained rate.

    steps: at least one with arrivals and a p50. saturation: the run's, see `load.result`.
    """
    ramp = _ramp(steps)
    limit = float(saturation["limit_ms"])
    known = [e for one in ramp for name in _QUANTILES if (e := getattr(one.latency_ms, name))]
    values = [limit, *(value for e in known for value in (e.low, e.value, e.high) if value > 0)]
    figure, axes = plotting.new_axes(_HEIGHT, left=_LEFT, right=_RIGHT, top=30, bottom=_AXIS)
    axes.set_xlim(0, max(one.level for one in ramp) * 1.06)
    plotting.set_log_axis(axes, "y", min(values) / 1.2, max(values) * 1.2)
    axes.set_xlabel("clicks per second that arrive (Poisson)", labelpad=6)
    axes.set_ylabel("ms from due to mask (log scale)", labelpad=6)
    axes.axhline(limit, color=plotting.RED, linewidth=1.5, linestyle=(0, (4, 3)))
    axes.annotate(
        f"limit for the 95 % line: {limit:g} ms", (0, limit), (8, 5), textcoords="offset pixels",
        color=plotting.RED,
    )  # fmt: skip
    if saturation["rate"] is not None:
        _draw_sustained(axes, float(saturation["rate"]))
    _draw_quantiles(axes, ramp)
    return figure


def steps_table(steps: Sequence[StepResult], limit_ms: float) -> Table:
    """Every step of a run, latencies with their intervals."""
    columns = [
        Column("step", number=False),
        Column("clicks/s"),
        *(Column(name, "click, ms") for name in ("p50", "p95", "p99", "slowest")),
        Column("first click p50, ms"),
        Column("open p50, ms"),
        Column("encoded"),
        Column("failed"),
        Column("lost"),
        Column("within limits", number=False),
    ]
    rows = [
        TableRow(
            [
                one.label,
                f"{one.throughput:.1f}",
                *(
                    _interval(e)
                    for e in (one.latency_ms.p50, one.latency_ms.p95, one.latency_ms.p99)
                ),
                "" if one.latency_ms.max is None else f"{one.latency_ms.max:,.0f}",
                _value(one.first_click_ms.p50),
                _value(one.open_ms.p50),
                str(one.encodes + one.recovered),
                ", ".join(f"{count} {code}" for code, count in _failures(one).items()) or "0",
                str(one.lost),
                one.problem(limit_ms) or "yes",
            ]
        )
        for one in steps
    ]
    notes = (
        "Latency runs from the time a click was due until its mask was unpacked. A quantile is "
        "given only if at least one click lies beyond it. No pause and human pace are closed "
        "loops: a slow server slows its users down. Arriving is an open loop: the latency of a "
        "click includes the time it waited.",
    )
    return Table("Every step", columns, rows, notes).without_empty_columns()


def _describe(load: LoadRun) -> str:
    document, plan = load.source.document, load.source.document["plan"]
    target, think = document["target"], plan["think"]
    sentences = [
        f"{load.source.name}: {document['model']['network']} ({document['model']['engine']}), "
        f"{target['kind']} over {target['protocol']}",
        describe_machine(load.source.machine),
        f"Human pace: {think['distribution']} pauses, median {think['median_s']:g} s, sigma "
        f"{think['sigma']:g}",
        f"Seed {plan['seed']}",
        "" if document["complete"] else "The run was interrupted: steps are missing",
        "Other programs used the machine during the run" if document.get("noisy") else "",
    ]
    return ". ".join(filter(None, sentences)) + "."


def _ramp(steps: Sequence[StepResult]) -> list[StepResult]:
    """The steps with arrivals that have a median, by rising rate."""
    ramp = [one for one in steps if one.pace == "arrivals" and one.latency_ms.p50]
    return sorted(ramp, key=lambda one: one.level)


def _draw_sustained(axes: Axes, rate: float) -> None:
    axes.axvline(rate, color=plotting.INK, linewidth=1.5, linestyle=(0, (1.5, 2)))
    axes.annotate(
        f"sustained: {rate:g}/s", (rate, 1), (-6, 8), xycoords=("data", "axes fraction"),
        textcoords="offset pixels", ha="right", color=plotting.INK, fontweight="bold",
    )  # fmt: skip


def _draw_quantiles(axes: Axes, ramp: Sequence[StepResult]) -> None:
    """A line and a band for each quantile, labelled at its end."""
    ends: list[tuple[str, str, float, float]] = []
    for (name, share), colour in zip(_QUANTILES.items(), plotting.SERIES, strict=False):
        points: list[tuple[float, Estimate]] = [
            (one.level, e) for one in ramp if (e := getattr(one.latency_ms, name))
        ]
        if not points:
            continue
        levels = [level for level, _ in points]
        lows, highs = [e.low for _, e in points], [e.high for _, e in points]
        axes.fill_between(levels, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.plot(levels, [e.value for _, e in points], color=colour, label=name)
        for level, e in points:
            (dot,) = axes.plot([level], [e.value], "o", markersize=6, color=colour)
            said = f"{name} {e.value:.0f} ms ({e.low:.0f} to {e.high:.0f})"
            plotting.set_tip(dot, f"{level:g} clicks/s: {said}")
        ends.append((share, colour, levels[-1], points[-1][1].value))
    low, high = axes.get_ylim()
    pixels = [axes.transData.transform((0, value))[1] for *_, value in ends]
    bottom, top = (axes.transData.transform((0, value))[1] for value in (low, high))
    for (share, colour, level, value), before, after in zip(
        ends, pixels, plotting.spread(pixels, 18, bottom, top), strict=True
    ):
        axes.annotate(
            f"{share} within", (level, value), (10, after - before),
            textcoords="offset pixels", va="center", color=colour,
        )  # fmt: skip


def _failures(step: StepResult) -> dict[str, int]:
    opens = {f"opening: {code}": count for code, count in step.failed_opens.items()}
    return {**step.failed, **opens}


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:,.0f}\n{estimate.low:,.0f} to {estimate.high:,.0f}"


def _value(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:,.0f}"
