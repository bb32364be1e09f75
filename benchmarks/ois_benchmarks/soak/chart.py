"""The chart of a soak run: latencies, memory, descriptors and threads, /dev/shm, over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ois_benchmarks import plotting
from ois_benchmarks.soak.result import MIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _PANEL, _GAP = 1100, 150, 40
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 190, 66, 56

_Value = Callable[[Mapping[str, Any]], float | None]


@plotting.styled
def draw_soak(document: Mapping[str, Any]) -> Figure:
    """Four panels above each other. Dashed lines are restarts of the server."""
    from matplotlib.figure import Figure

    windows = document["windows"]
    minutes = [one["at_s"] / 60 for one in windows]
    height = _TOP + 4 * _PANEL + 3 * _GAP + _BOTTOM
    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    clicks = document["clicks"]
    title = (
        f"{clicks['answered']:,} clicks on {document['images']:,} images in "
        f"{document['elapsed_s'] / 60:.0f} minutes; lost {clicks['lost']}, wrong {clicks['wrong']}"
    )
    figure.text(_LEFT / _WIDTH, 1 - 24 / height, title, fontsize=15)

    def panel(number: int) -> Axes:
        bottom = height - _TOP - _PANEL - number * (_PANEL + _GAP)
        axes = figure.add_axes(
            (_LEFT / _WIDTH, bottom / height, 1 - (_LEFT + _RIGHT) / _WIDTH, _PANEL / height)
        )
        axes.set_xlim(0, max(minutes[-1], 1e-3))
        axes.tick_params(labelbottom=number == 3)
        for event in document["events"]:
            line = axes.axvline(event["at_s"] / 60, color=plotting.RED, linewidth=1, linestyle="--")
            plotting.set_tip(line, f"{event['kind']}, answered after {event['recover_s']} s")
        return axes

    def curves(axes: Axes, label: str, named: Sequence[tuple[str, str, _Value]]) -> None:
        for name, colour, value in named:
            values = [value(one) for one in windows]
            shown = [float("nan") if one is None else one for one in values]
            axes.plot(minutes, shown, color=colour, label=name, linewidth=1.5)
        axes.set_ylabel(label, labelpad=8)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.05), borderaxespad=0)

    latency = panel(0)
    curves(
        latency,
        "click, ms",
        [
            (name, colour, lambda one, name=name: one["click_ms"][name])  # type: ignore[misc]
            for name, colour in (
                ("p50", plotting.BLUE),
                ("p95", plotting.ORANGE),
                ("p99", plotting.GREEN),
                ("max", plotting.GREY),
            )
        ],
    )
    found = [ms for one in windows for ms in one["click_ms"].values() if ms]
    if found:
        plotting.set_log_axis(latency, "y", min(found) * 0.8, max(found) * 1.25)

    memory = panel(1)
    curves(
        memory,
        "private MiB",
        [
            ("server", plotting.BLUE, lambda one: one["server"]["memory_bytes"] / MIB or None),
            ("clients", plotting.ORANGE, lambda one: one["client"]["memory_bytes"] / MIB),
        ],
    )
    memory.set_ylim(bottom=0)

    counts = panel(2)
    curves(
        counts,
        "count",
        [
            ("server: descriptors", plotting.BLUE, lambda one: one["server"]["descriptors"]),
            ("server: threads", plotting.GREEN, lambda one: one["server"]["threads"]),
            ("clients: descriptors", plotting.ORANGE, lambda one: one["client"]["descriptors"]),
            ("clients: threads", plotting.PURPLE, lambda one: one["client"]["threads"]),
        ],
    )
    counts.set_ylim(bottom=0)

    shared = panel(3)
    curves(
        shared,
        "MiB",
        [
            ("/dev/shm", plotting.BLUE, lambda one: one["shm_bytes"] / MIB),
            ("feature store", plotting.ORANGE, lambda one: (one["store_bytes"] or 0) / MIB),
        ],
    )
    shared.set_ylim(bottom=0)
    shared.set_xlabel("minutes; dashed lines: restarts of the server")
    return figure


def soak_svg(document: Mapping[str, Any]) -> str:
    """`draw_soak` as an SVG element, which is also a document of its own."""
    description = (
        "Latency of clicks, private memory, file descriptors and threads, and shared memory over "
        "time; dashed lines are restarts of the server."
    )
    return plotting.to_svg(draw_soak(document), description, "Soak run")
