"""The roofline of a machine, and every contestant's click or encode below it.

The x axis is FLOPs per byte moved, the y axis FLOPs per second. A network below the sloping roof is
bound by memory, one below the flat roof by arithmetic. The distance to the roof is what its engine
leaves unused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ois_benchmarks import plotting
from ois_benchmarks.latency.result import Benchmark, Definition, LatencyResult
from ois_benchmarks.report.inputs import Inputs, LatencyRun, describe_machine
from ois_benchmarks.report.latency import device, is_ours, label, rows_at, sizes
from ois_benchmarks.report.page import Block, Chart, Section
from ois_benchmarks.report.times import duration
from ois_benchmarks.roofline import PRECISIONS, Ceilings
from ois_benchmarks.table import Column, Table, TableRow, format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT, _LEFT, _RIGHT, _AXIS = 460, 84, 350, 50
_CAPTION = (
    "The percentage is the share of the roof that each contestant reaches: of the flat roof for "
    "its arithmetic or of the sloping roof, whichever is lower. Above 100 %, the engine does less "
    "work than was counted."
)


def roofline_section(inputs: Inputs) -> Section:
    """Clicks and encodes of every SPC run below the roof of its machine."""
    blocks: list[Block] = []
    for one in inputs.latency:
        if one.result.benchmark is not Benchmark.SPC:
            continue
        ceilings = _ceilings_for(inputs.ceilings, one.result.machine, device(one.result))
        for size in sizes(one.result):
            work = work_of(one.result, size)
            if not work:
                continue
            if ceilings is None:
                blocks.append(_without_ceilings(one))
                break
            for what in ("click", "encode"):
                chosen = [each for each in work if each.what == what]
                if chosen:
                    title = headline(chosen, ceilings, f"on {size[0]}x{size[1]}")
                    blocks.append(Chart(roofline_svg(chosen, ceilings), title, _CAPTION))
            blocks.append(work_table(work, ceilings))
    return Section("How much of the machine is used", blocks)


@dataclass(frozen=True, slots=True)
class Work:
    """A click or an encode of one contestant. what: "click" or "encode"."""

    label: str
    what: str
    ours: bool
    precision: str
    seconds: float
    flops: float
    bytes_moved: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes_moved

    @property
    def rate(self) -> float:
        """FLOPs per second."""
        return self.flops / self.seconds

    def share(self, ceilings: Ceilings) -> float:
        """The share of the roof that was reached."""
        return ceilings.floor_s(self.flops, self.bytes_moved, self.precision) / self.seconds


def ran_on_gpu(engine: str) -> bool:
    """Whether an `Identity.engine` names a GPU; engines on the CPU name no device."""
    return "cuda" in engine or engine.startswith("tensorrt")


def work_of(result: LatencyResult, size: tuple[int, int]) -> list[Work]:
    """Clicks and encodes on images of one size whose FLOPs and bytes were counted.

    Only contestants on the run's device count: on a GPU run, what ran on the CPU has another roof.
    """
    found = []
    on_gpu = device(result) != "cpu"
    for row in rows_at(result, size):
        if row.cost is None or row.identity is None or row.identity.precision not in PRECISIONS:
            continue
        if on_gpu != ran_on_gpu(row.identity.engine):
            continue
        cost, precision = row.cost, row.identity.precision
        click = row.figures.get(Definition.CLICK)
        seconds = {
            "click": (click.seconds if click else None, cost.click_flops, cost.click_bytes),
            "encode": (
                row.encode.median_s if row.encode and click else None,
                cost.encode_flops,
                cost.encode_bytes,
            ),
        }
        found += [
            Work(label(row), what, is_ours(row), precision, took, flops, moved)
            for what, (took, flops, moved) in seconds.items()
            if took and flops and moved
        ]
    return found


def headline(work: Sequence[Work], ceilings: Ceilings, where: str) -> str:
    """Say what share of the roof the fastest of ours reaches.

    work: all clicks or all encodes, at least one. where: the image size, as "on 854x480".
    """
    what = "A click" if work[0].what == "click" else "An encode"
    ours = [one for one in work if one.ours]
    if not ours:
        return f"{what} {where}: the share of the machine's limit that each network reaches"
    best = min(ours, key=lambda one: one.seconds)
    floor = ceilings.floor_s(best.flops, best.bytes_moved, best.precision)
    bound = (
        "arithmetic"
        if best.flops / ceilings.peak(best.precision) >= best.bytes_moved / ceilings.bytes_per_s
        else "memory"
    )
    return (
        f"{what} {where}: {best.label} takes {duration(best.seconds)}, {bound} alone would take "
        f"{duration(floor)}: {best.share(ceilings):.0%} of the roof"
    )


@plotting.styled
def draw_roofline(work: Sequence[Work], ceilings: Ceilings) -> Figure:
    """Draw every contestant of `work`, at least one, below the roofs of `ceilings`."""
    figure, axes = plotting.new_axes(_HEIGHT, left=_LEFT, right=_RIGHT, top=8, bottom=_AXIS)
    ridge = ceilings.fp32_flops / ceilings.bytes_per_s
    intensities = [*(one.intensity for one in work), ridge / 2, ridge * 4]
    plotting.set_log_axis(axes, "x", min(intensities) / 1.35, max(intensities) * 1.35)
    rates = [value / 1e9 for value in (*ceilings.peaks().values(), *(one.rate for one in work))]
    lowest = min(one.rate for one in work) / 1e9
    plotting.set_log_axis(axes, "y", lowest / 1.35, max(rates) * 1.35)
    axes.set_xlabel("FLOPs per byte moved (log scale)", labelpad=6)
    axes.set_ylabel("GFLOP/s (log scale)", labelpad=6)
    _draw_flat_roofs(axes, ceilings)
    _draw_sloping_roof(axes, ceilings)
    _draw_work(axes, work, ceilings)
    return figure


def roofline_svg(work: Sequence[Work], ceilings: Ceilings) -> str:
    """`draw_roofline` as an SVG element."""
    ordered = sorted(work, key=lambda one: -one.rate)
    description = "; ".join(f"{one.label} {one.rate / 1e9:.0f} GFLOP/s" for one in ordered)
    return plotting.to_svg(draw_roofline(work, ceilings), f"{work[0].what}: {description}")


def work_table(work: Sequence[Work], ceilings: Ceilings) -> Table:
    columns = [
        Column("contestant", number=False),
        Column("work", number=False),
        Column("arithmetic", number=False),
        Column("GFLOP"),
        Column("GB moved"),
        Column("measured, ms"),
        Column("floor, ms"),
        Column("of the roof"),
    ]
    rows = [
        TableRow(
            [
                one.label,
                one.what,
                one.precision,
                format_number(one.flops / 1e9),
                format_number(one.bytes_moved / 1e9),
                format_number(one.seconds * 1e3),
                format_number(1e3 * ceilings.floor_s(one.flops, one.bytes_moved, one.precision)),
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
        "products and convolutions. Bytes are what these read and write if each operand crosses "
        "memory once; operations that engines fuse are not counted. So a floor is a lower bound, "
        "not a prediction.",
    ]
    return Table(
        "Work per click and encode, and the least time it can take on this machine",
        columns,
        rows,
        notes,
    )


def _ceilings_for(
    every: Sequence[Ceilings], machine: Mapping[str, Any], device: str
) -> Ceilings | None:
    """Ceilings of this machine. Those measured while other programs computed are too low."""
    return next((one for one in every if one.holds_for(machine, device) and not one.noisy), None)


def _without_ceilings(latency: LatencyRun) -> str:
    where = device(latency.result)
    advice = (
        "were not measured while it was idle. Run `ois bench report` there."
        if where == "cpu"
        else f"are not among the files. On that {where} device, run: ois bench ceilings "
        "--output gpu-ceilings.json"
    )
    return (
        f"{latency.source.name} has no roofline: the ceilings of its machine "
        f"({describe_machine(latency.result.machine)}) {advice}"
    )


def _draw_work(axes: Axes, work: Sequence[Work], ceilings: Ceilings) -> None:
    """A dot for each, and a line from it to its label beside the axes."""
    ordered = sorted(work, key=lambda one: one.rate)
    height = _HEIGHT - 8 - _AXIS
    shares = [axes.transAxes.inverted().transform(axes.transData.transform((1, one.rate / 1e9)))[1]
              for one in ordered]  # fmt: skip
    places = plotting.spread([height * share for share in shares], 17, 0, height)
    for one, place in zip(ordered, places, strict=True):
        colour = plotting.OURS if one.ours else plotting.PEER
        said = f"{one.share(ceilings):.0%} {one.label}"
        axes.annotate(
            plotting.shorten(said, _RIGHT - 24),
            (one.intensity, one.rate / 1e9),
            (1 + 18 / (plotting.WIDTH - _LEFT - _RIGHT), place / height),
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontweight="bold" if one.ours else "normal",
            arrowprops={
                "arrowstyle": "-", "color": plotting.GREY, "alpha": 0.6, "linewidth": 0.7,
                "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5),
            },
        )  # fmt: skip
        (dot,) = axes.plot([one.intensity], [one.rate / 1e9], "o", markersize=9, color=colour)
        plotting.set_tip(dot, f"{said} of the roof: {one.rate / 1e9:.0f} GFLOP/s")


def _draw_flat_roofs(axes: Axes, ceilings: Ceilings) -> None:
    """One line per precision, or for two that are equally fast, as bf16 and fp16 are on a GPU."""
    flats: dict[str, float] = {}
    for name, flops in ceilings.peaks().items():
        near = next((other for other, rate in flats.items() if abs(flops / rate - 1) < 0.1), None)
        if near is None:
            flats[name] = flops
        else:
            flats[f"{near}, {name}"] = max(flats.pop(near), flops)
    left, right = axes.get_xlim()
    for name, flops in flats.items():
        ridge = max(flops / ceilings.bytes_per_s, left)
        rate = flops / 1e9
        axes.plot([ridge, right], [rate, rate], color=plotting.GREY)
        axes.annotate(
            f"{name}: {rate:.0f} GFLOP/s", (right, rate), (-4, 5), textcoords="offset pixels",
            ha="right",
        )  # fmt: skip


def _draw_sloping_roof(axes: Axes, ceilings: Ceilings) -> None:
    bandwidth = ceilings.bytes_per_s / 1e9
    (left, right), lowest = axes.get_xlim(), axes.get_ylim()[0]
    begin = max(left, lowest / bandwidth)
    end = min(right, max(ceilings.peaks().values()) / ceilings.bytes_per_s)
    if begin >= end:
        return
    axes.plot([begin, end], [begin * bandwidth, end * bandwidth], color=plotting.GREY)
    (x1, y1), (x2, y2) = (axes.transData.transform((at, at * bandwidth)) for at in (begin, end))
    middle = math.sqrt(begin * end)
    axes.annotate(
        f"memory: {bandwidth:.1f} GB/s", (middle, middle * bandwidth), (0, 5),
        textcoords="offset pixels", ha="center", rotation_mode="anchor",
        rotation=math.degrees(math.atan2(y2 - y1, x2 - x1)),
    )  # fmt: skip
