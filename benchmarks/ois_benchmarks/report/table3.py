"""The paper's Table 3 beside what was measured here, one row per contestant.

The paper's numbers are those that could be read; the others are left out, not guessed. The paper
states neither the device of its timings nor their definition. Its text calls SPC "average speed
per click", so the encode is most likely excluded (`click` here). The table counts parameters in
two ways (SimpleClick's count is a tool's figure that omits some of them), and gives SimpleClick's
SPC at 448 and its SAT at 1024 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ois_benchmarks.latency.result import Benchmark, Definition, Figure, LatencyResult, LatencyRow
from ois_benchmarks.quality.metrics import Kind, Metric
from ois_benchmarks.quality.result import model_name
from ois_benchmarks.report.inputs import LatencyRun
from ois_benchmarks.report.latency import device, is_ours, label
from ois_benchmarks.table import Column, Table, TableRow, format_number

_CITE = (
    "Paper: order-aware interactive segmentation, Table 3. It does not state its device or its "
    "definition of SPC. A ratio is given where only the ratio could be read; empty cells could "
    "not be read."
)


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One method of the paper, with its numbers as printed.

    contestant: the measured row beside it, if that row's label contains `network`.
    """

    method: str
    contestant: str
    parameters: str = ""
    spc: str = ""
    sat: str = ""
    network: str = ""


TABLE_3 = (
    PaperRow("SimpleClick (448)", "simpleclick-448", "96.46", "55"),
    PaperRow("SimpleClick (1024)", "simpleclick-1024", sat="81.3"),
    PaperRow("SegNext", "segnext-sax2", "113.79", "5.8 × HQ-SAM"),
    PaperRow("HQ-SAM", "hqsam-vitb", "94.81", "10"),
    PaperRow(
        "OIS",
        "ois-torch-unrewritten",
        "107.88",
        "0.53 × SegNext, 3.1 × HQ-SAM",
        "0.45 × SegNext",
        network="ViT-B",
    ),
)

_METRICS = (Metric.NOC90, Metric.NOF95_NEVER, Metric.MIOU1, Metric.MIOU5)
_PAPER, _HERE = "paper", "here"

_COLUMNS = (
    Column("method", number=False),
    Column(_PAPER, "parameters, M"),
    Column(_HERE, "parameters, M"),
    Column(_HERE, "encode, s"),
    Column(_PAPER, "SPC, ms per click"),
    Column("click, here", "SPC, ms per click"),
    Column("loop, here", "SPC, ms per click"),
    Column("session, here", "SPC, ms per click"),
    Column(_PAPER, "SAT, s"),
    Column("sequential, here", "SAT, s"),
    Column("batched, here", "SAT, s"),
    Column("automatic, here", "SAT, s"),
    *(Column(name, metric.label) for metric in _METRICS for name in ("published", _HERE)),
)


def machine_key(result: LatencyResult) -> tuple[Any, ...]:
    """Processor, cores, threads and device. Only results that agree in these share a table."""
    machine, where = result.machine, device(result)
    if where != "cpu":
        where = machine.get("gpu", where)
    return machine.get("cpu"), machine.get("cores"), machine.get("threads"), where


def table_3(
    results: Sequence[LatencyRun],
    size: tuple[int, int],
    quality: Sequence[Mapping[str, Any]] = (),
    published: Sequence[Mapping[str, Any]] = (),
) -> Table:
    """The paper's rows, measured rows and quality rows in one table.

    results: SPC and SAT runs of one machine. size: (width, height) of the image in pixels.
    quality: results of `ois bench quality`. published: see `quality.table.read_published`.
    """
    rows: dict[str, dict[Benchmark, LatencyRow]] = {}
    for one in results:
        for row in one.result.rows:
            if (row.width, row.height) == size:
                rows.setdefault(row.contestant, {})[one.result.benchmark] = row
    paper = {
        row.contestant: row
        for row in TABLE_3
        if any(row.network in label(each) for each in rows.get(row.contestant, {}).values())
    }
    lines = [_measured(rows[name], paper.get(name)) for name in _ordered(rows)]
    lines += [_paper_only(row) for row in TABLE_3 if row.contestant not in paper]
    lines += [_quality(document) for document in quality]
    lines += [_published(row) for row in published]
    notes = [
        _CITE,
        "Here: medians with 95 % intervals. The terms click, loop, session, sequential, batched "
        "and automatic are defined below. ≈: projected from fewer clicks. *: other programs used "
        "the machine. Parameters here count the elements of all parameters.",
    ]
    notes += _warnings(row for by_benchmark in rows.values() for row in by_benchmark.values())
    title = f"Table 3 of the paper and the same on this machine, image of {size[0]}x{size[1]}"
    return Table(title, _COLUMNS, lines, notes).without_empty_columns()


def _warnings(rows: Iterable[LatencyRow]) -> list[str]:
    """Each warning once, followed by the contestants that it is about."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for warning in row.identity.warnings if row.identity else ():
            found.setdefault(warning, {})[label(row)] = None
    return [f"{warning}: {'; '.join(labels)}." for warning, labels in found.items()]


def _ordered(rows: Mapping[str, Mapping[Benchmark, LatencyRow]]) -> list[str]:
    """Ours first, then peers. In each group the fastest click comes first, failures last."""

    def place(name: str) -> tuple[bool, bool, float]:
        every = list(rows[name].values())
        figures = [figure for row in every for figure in row.figures.items()]
        click = min((f.seconds for d, f in figures if d is Definition.CLICK), default=1e6)
        return not is_ours(every[0]), not figures, click

    return sorted(rows, key=place)


def _measured(by_benchmark: Mapping[Benchmark, LatencyRow], paper: PaperRow | None) -> TableRow:
    rows = list(by_benchmark.values())
    figures = {d: (f, row) for row in rows for d, f in row.figures.items()}
    cost = next((row.cost for row in rows if row.cost), None)
    encode = next((row for row in rows if row.encode), None)
    failed = next((row.failed for row in rows if row.failed is not None), None)
    name = label(rows[0])
    if failed is not None:
        name += f": not measured, {failed}" if not figures else f" ({failed})"
    weights = next((row.identity.weights for row in rows if row.identity), "")
    if weights not in ("", "random", "none"):
        name += f", weights {weights}"
    cells = [
        name,
        paper.parameters if paper else "",
        f"{cost.parameters / 1e6:.2f}" if cost else "",
        _spread(encode.encode.median_s, encode.encode.low_s, encode.encode.high_s, encode.noisy)
        if encode and encode.encode
        else "",
        paper.spc if paper else "",
        *(_figure(figures.get(d), 1e3) for d in Definition if d.benchmark is Benchmark.SPC),
        paper.sat if paper else "",
        *(_figure(figures.get(d), 1.0) for d in Definition if d.benchmark is Benchmark.SAT),
        *("" for _ in range(2 * len(_METRICS))),
    ]
    return TableRow(cells, strong=is_ours(rows[0]) and bool(figures), quiet=not figures)


def _paper_only(row: PaperRow) -> TableRow:
    """A row of the paper without a measured row beside it."""
    blank = [""] * len(_COLUMNS)
    blank[0], blank[1], blank[4], blank[8] = (
        f"{row.method}, paper",
        row.parameters,
        row.spc,
        row.sat,
    )
    return TableRow(blank)


def _quality(document: Mapping[str, Any]) -> TableRow:
    cells = [f"{model_name(document['model'])} on {document['dataset']['name']}"]
    cells += [""] * (len(_COLUMNS) - 1 - 2 * len(_METRICS))
    for metric in _METRICS:
        found = document["metrics"].get(metric)
        cells += ["", _metric(metric, found["value"]) if found else ""]
    return TableRow(cells)


def _published(row: Mapping[str, Any]) -> TableRow:
    cells = [f"{row['method']} on {row['dataset']}"]
    cells += [""] * (len(_COLUMNS) - 1 - 2 * len(_METRICS))
    for metric in _METRICS:
        cells += [_metric(metric, row[metric]) if metric in row else "", ""]
    return TableRow(cells)


def _metric(metric: Metric, value: float) -> str:
    if metric.is_count:
        return f"{value:.0f}"
    return f"{100 * value:.2f}" if metric.kind is Kind.IOU else f"{value:.2f}"


def _figure(found: tuple[Figure, LatencyRow] | None, factor: float) -> str:
    if found is None:
        return ""
    figure, row = found
    text = _spread(
        factor * figure.seconds, factor * figure.low_s, factor * figure.high_s, row.noisy
    )
    return f"≈ {text}" if figure.projected else text


def _spread(value: float, low: float, high: float, noisy: bool) -> str:
    interval = f"\n{format_number(low)} to {format_number(high)}" if low < high else ""
    return f"{format_number(value)}{'*' if noisy else ''}{interval}"
