"""The chart of a readout: latencies by size and by load, features by memory, a loss over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ois_benchmarks import plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 1100, 720
_PANEL = (420, 240)
_LEFT, _TOP, _ACROSS, _DOWN = 74, 60, 540, 340


@plotting.styled
def draw_capacity(document: Mapping[str, Any]) -> Figure:
    """Four panels, two by two."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)

    def panel(column: int, row: int, title: str) -> Axes:
        left, top = _LEFT + column * _ACROSS, _TOP + row * _DOWN
        bottom = _HEIGHT - top - _PANEL[1]
        axes = figure.add_axes(
            (left / _WIDTH, bottom / _HEIGHT, _PANEL[0] / _WIDTH, _PANEL[1] / _HEIGHT)
        )
        axes.set_title(title, loc="left")
        return axes

    _latencies(panel(0, 0, "ms by number of replicas"), document["sizes"], "replicas", log=True)
    _latencies(
        panel(1, 0, f"ms by load, {document['plan']['middle']} replicas"), document["loads"], "load"
    )

    memory = panel(0, 1, "clicks that find their features, by memory")
    at = [one["of_images_in_use"] for one in document["stores"]]
    shares = [100 * one["clicks"]["hit_share"] for one in document["stores"]]
    memory.plot(at, shares, "o-", color=plotting.BLUE)
    memory.set_ylim(0, 102)
    memory.set_xlim(left=0)
    memory.set_ylabel("%")
    memory.set_xlabel("images stored per image in use")

    loss = panel(1, 1, "clicks that find their features, a replica is killed at 0")
    for one, colour in zip(document["losses"], plotting.PARTS, strict=False):
        rows = [row for row in one["over_time"] if row["hit_share"] is not None]
        loss.plot(
            [row["at_s"] for row in rows],
            [100 * row["hit_share"] for row in rows],
            color=colour,
            linewidth=1.5,
            label=f"{one['replicas']:,} replicas",
        )
    loss.set_ylabel("%")
    loss.set_xlabel(f"seconds; it is back, empty, after {document['losses'][0]['down_s']:g}")
    loss.legend(loc="lower right")
    return figure


def _latencies(axes: Axes, rows: list[Mapping[str, Any]], key: str, *, log: bool = False) -> None:
    at = [one[key] for one in rows]
    curves = (
        ("click p50", "clicks", "p50", plotting.BLUE),
        ("click p99", "clicks", "p99", plotting.ORANGE),
        ("open p50", "opens", "p50", plotting.GREEN),
        ("open p99", "opens", "p99", plotting.PURPLE),
    )
    found = []
    for name, kind, quantile, colour in curves:
        values = [one[kind][quantile] for one in rows]
        found += values
        axes.plot(at, values, "o-", color=colour, label=name, markersize=4)
    if log:
        plotting.set_log_axis(axes, "x", min(at) * 0.9, max(at) * 1.1)
    plotting.set_log_axis(axes, "y", min(found) * 0.8, max(found) * 2.5)
    axes.set_xlabel(key)
    axes.legend(loc="upper left", ncols=2)


def capacity_svg(document: Mapping[str, Any]) -> str:
    """`draw_capacity` as an SVG element, which is also a document of its own."""
    description = (
        "Simulated latency of clicks and of opening an image by number of replicas and by load; "
        "the share of clicks that find their features by memory, and while a replica is lost."
    )
    return plotting.to_svg(draw_capacity(document), description, "Capacity")
