"""A latency result as a Markdown table, one row a contestant and picture."""

from __future__ import annotations

from ois_benchmarks.latency.result import Benchmark, Definition, LatencyResult, Row


def markdown(result: LatencyResult) -> str:
    """Times in seconds with their 95 % interval; what is projected or noisy is marked."""
    definitions = [each for each in Definition if each.benchmark is result.benchmark]
    unit = "s a click" if result.benchmark is Benchmark.SPC else "s"
    titles = [
        *("contestant", "picture", "encode s"),
        *(f"{each} {unit}" for each in definitions),
        *("params M", "GFLOP encode", "GFLOP click", "peak GiB"),
    ]
    lines = [f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
    rows = sorted(result.rows, key=lambda row: (row.width, row.height))
    for row in rows:
        cells = _failed(row, len(titles) - 2) if row.failed else _cells(row, definitions)
        name = row.identity.label if row.identity else row.contestant
        lines.append(f"| {name} | {row.width}x{row.height} | {' | '.join(cells)} |")
    marks = []
    if any(figure.projected for row in rows for figure in row.figures.values()):
        marks.append("~ projected: encode + all clicks at the median of the few that were made.")
    if any(row.noisy for row in rows):
        marks.append("! other programs used the cores meanwhile: not a clean measurement.")
    notes = dict.fromkeys(
        f"{row.identity.label}: {warning}."
        for row in rows
        if row.identity
        for warning in row.identity.warnings
    )
    remarks = [*marks, *notes]
    return "\n".join([*lines, "", *remarks] if remarks else lines)


def _cells(row: Row, definitions: list[Definition]) -> list[str]:
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


def _failed(row: Row, columns: int) -> list[str]:
    reason = f"{'not here' if row.absent else 'failed'}: {row.failed}".replace("|", "\\|")
    return [reason, *[""] * (columns - 1)]
