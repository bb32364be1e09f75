"""The table of a latency result: one line per contestant and picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ois_benchmarks.latency.averages import MEANINGS, online_s, spread_s
from ois_benchmarks.latency.result import Benchmark, Definition, LatencyResult, LatencyRow
from ois_benchmarks.table import Column, Table, TableRow

Average = Callable[[LatencyRow], float | None]
_AVERAGES: dict[str, Average] = {"online": online_s, "20-SPC": spread_s}


def table_of(result: LatencyResult) -> Table:
    """Seconds with their 95 % interval. Projected and noisy figures are marked."""
    definitions = [each for each in Definition if each.benchmark is result.benchmark]
    unit = "s/click" if result.benchmark is Benchmark.SPC else "s"
    columns = [Column("contestant", number=False), Column("picture", number=False)]
    averages = {
        name: average
        for name, average in _AVERAGES.items()
        if result.benchmark is Benchmark.SPC and any(average(row) for row in result.rows)
    }
    columns += [Column("encode, s"), *(Column(f"{each}, {unit}") for each in definitions)]
    columns += [Column(f"{name}, {unit}") for name in averages]
    columns += [Column(n) for n in ("params M", "GFLOP encode", "GFLOP click", "peak GiB")]
    rows = sorted(result.rows, key=lambda row: (row.width, row.height))
    lines = []
    for row in rows:
        cells = _failed(row, len(columns) - 2) if row.failed else _cells(row, definitions, averages)
        name = row.identity.label if row.identity else row.contestant
        lines.append(TableRow([name, f"{row.width}x{row.height}", *cells]))
    marks = []
    if any(figure.projected for row in rows for figure in row.figures.values()):
        marks.append("~ projected: encode + all clicks at the median of the few that were made.")
    if any(row.noisy for row in rows):
        marks.append("! noisy: other programs used the cores, so this is not a clean measurement.")
    notes = dict.fromkeys(
        f"{row.identity.label}: {warning}."
        for row in rows
        if row.identity
        for warning in row.identity.warnings
    )
    meanings = [f"{name}: {meaning}." for name, meaning in MEANINGS if name in averages]
    return Table("", columns, lines, [*marks, *notes, *meanings, *_stages(rows)])


def _stages(rows: Sequence[LatencyRow]) -> list[str]:
    """Where the time of a call through a server went, one line per figure."""
    return [
        f"{row.identity.label if row.identity else row.contestant}, {row.width}x{row.height}, "
        f"{definition}, ms per call of {figure.batch}: "
        + ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in figure.stages_s.items())
        + "."
        for row in rows
        for definition, figure in row.figures.items()
        if figure.stages_s
    ]


def _cells(
    row: LatencyRow, definitions: list[Definition], averages: Mapping[str, Average]
) -> list[str]:
    noisy = " !" if row.noisy else ""
    cells = [f"{row.encode.median_s:.2f}{noisy}" if row.encode else "–"]
    for definition in definitions:
        figure = row.figures.get(definition)
        if figure is None:
            cells.append("")
            continue
        mark = "~" if figure.projected else ""
        interval = (
            f" ({figure.low_s:.3g}–{figure.high_s:.3g})" if figure.low_s < figure.high_s else ""
        )
        cells.append(f"{mark}{figure.seconds:.3g}{interval}{noisy}")
    for average in averages.values():
        seconds = average(row)
        cells.append("" if seconds is None else f"{seconds:.3g}{noisy}")
    cost, peak = row.cost, row.peak_memory_bytes
    cells += (
        ["", "", ""]
        if cost is None
        else [
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.encode_flops / 1e9:.1f}" if cost.encode_flops else "–",
            f"{cost.click_flops / 1e9:.2f}",
        ]
    )
    return [*cells, f"{peak / 2**30:.2f}" if peak else ""]


def _failed(row: LatencyRow, columns: int) -> list[str]:
    return [f"{'not here' if row.absent else 'failed'}: {row.failed}", *[""] * (columns - 1)]
