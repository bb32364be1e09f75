"""The paper's Table 3 beside what was measured here, one row per contestant.

The paper does not name the device of its timings. It defines SPC as the average time taken per
click, so the encode is most likely excluded (`click` and `online` here). The table counts
parameters in two ways (SimpleClick's count is a tool's figure that omits some of them). The ratio
of SimpleClick's SAT and SPC fits its FLOPs only if the SPC is at 448 pixels and the SAT at 1024, so
its row stands beside both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ois_benchmarks.latency.averages import online_s, spread_s
from ois_benchmarks.latency.result import Benchmark, Definition, Figure, LatencyResult, LatencyRow
from ois_benchmarks.published.paper import paper
from ois_benchmarks.report.inputs import LatencyRun
from ois_benchmarks.report.latency import device, is_ours, label
from ois_benchmarks.table import Column, Table, TableRow, format_number

_CITE = (
    f"Paper: {paper().citation}, Table 3. {paper().remarks[3]} NoC90 and 5-mIoU are of HQSeg44K; "
    "what was measured there is beside Table 1."
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
    noc90: str = ""
    miou5: str = ""
    network: str = ""


def _printed(
    method: str, contestant: str, *, of: str = "", columns: str = "", network: str = ""
) -> PaperRow:
    """A row of Table 3. of: its name there, if it differs. columns: the keys to show; "": all."""
    values = paper().tables[3].row(of or method).values
    shown = columns.split() or list(values)
    return PaperRow(method, contestant, network=network, **{key: values[key] for key in shown})


TABLE_3 = (
    _printed(
        "SimpleClick (448)", "simpleclick-448",
        of="SimpleClick", columns="parameters spc noc90 miou5",
    ),
    _printed("SimpleClick (1024)", "simpleclick-1024", of="SimpleClick", columns="sat"),
    _printed("SegNext", "segnext-sax2"),
    _printed("HQ-SAM", "hqsam-vitb"),
    _printed("OIS", "ois-torch-unrewritten", network="ViT-B"),
)  # fmt: skip

_PAPER, _HERE = "paper", "here"

_COLUMNS = (
    Column("method", number=False),
    Column(_PAPER, "parameters, M"),
    Column(_HERE, "parameters, M"),
    Column(_HERE, "encode, s"),
    Column(_PAPER, "SPC, ms per click"),
    Column("click, here", "SPC, ms per click"),
    Column("online, here", "SPC, ms per click"),
    Column("20-SPC, here", "SPC, ms per click"),
    Column("loop, here", "SPC, ms per click"),
    Column("session, here", "SPC, ms per click"),
    Column(_PAPER, "SAT, s"),
    Column("sequential, here", "SAT, s"),
    Column("batched, here", "SAT, s"),
    Column("automatic, here", "SAT, s"),
    Column(_PAPER, "NoC90"),
    Column(_PAPER, "5-mIoU"),
)


def machine_key(result: LatencyResult) -> tuple[Any, ...]:
    """Processor, cores, threads and device. Only results that agree in these share a table."""
    machine, where = result.machine, device(result)
    if where != "cpu":
        where = machine.get("gpu", where)
    return machine.get("cpu"), machine.get("cores"), machine.get("threads"), where


def table_3(
    results: Sequence[LatencyRun],
    size: tuple[int, int] | None,
) -> Table:
    """The paper's rows and measured rows in one table.

    results: SPC and SAT runs of one machine. size: (width, height) of the image in pixels; None if
    nothing was measured.
    """
    groups = _groups(results, size)
    beside: dict[int, PaperRow] = {}  # by the number of the group
    for number in sorted(range(len(groups)), key=lambda number: bool(groups[number].source)):
        printed = _beside(groups[number])
        if printed is not None and printed not in beside.values():
            beside[number] = printed
    lines = [_measured(group, beside.get(number)) for number, group in enumerate(groups)]
    lines += [_paper_only(row) for row in TABLE_3 if row not in beside.values()]
    if size is None:
        title = "Table 3 of the paper; not measured here yet"
        return Table(title, _COLUMNS, lines, [_CITE]).without_empty_columns()
    notes = [
        _CITE,
        "Here: medians with 95 % intervals; online and 20-SPC are means. The terms click, online, "
        "20-SPC, loop, session, sequential, batched and automatic are defined below. ≈: projected "
        "from fewer clicks. *: other programs used the machine. Parameters here count the elements "
        "of all parameters.",
    ]
    notes += _warnings(row for group in groups for row in group.rows.values())
    title = f"Table 3 of the paper and the same on this machine, image of {size[0]}x{size[1]}"
    return Table(title, _COLUMNS, lines, notes).without_empty_columns()


def _warnings(rows: Iterable[LatencyRow]) -> list[str]:
    """Each warning once, followed by the contestants that it is about."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for warning in row.identity.warnings if row.identity else ():
            found.setdefault(warning, {})[label(row)] = None
    return [f"{warning}: {'; '.join(labels)}." for warning, labels in found.items()]


def _groups(results: Sequence[LatencyRun], size: tuple[int, int] | None) -> list[_Group]:
    """Ours first, then peers. In each part the fastest click comes first, failures last.

    A contestant that was measured by several runs of one benchmark has as many rows.
    """
    found: dict[tuple[str, str], list[_Group]] = {}
    for one in results:
        for row in one.result.rows:
            if (row.width, row.height) != size:
                continue
            key = row.contestant, str(one.result.settings.get("network")) if is_ours(row) else ""
            benchmark, groups = one.result.benchmark, found.setdefault(key, [])
            group = next((each for each in groups if benchmark not in each.rows), None)
            if group is None:
                group = _Group({}, one.source.name if groups else "")
                groups.append(group)
            group.rows[benchmark] = row
    every = [group for groups in found.values() for group in groups]
    return sorted(every, key=lambda group: (not is_ours(group.any), *group.place))


@dataclass(frozen=True, slots=True)
class _Group:
    """One row of the table. source: the file, if another file has a row of the contestant."""

    rows: dict[Benchmark, LatencyRow]
    source: str

    @property
    def any(self) -> LatencyRow:
        return next(iter(self.rows.values()))

    @property
    def place(self) -> tuple[bool, float]:
        figures = [figure for row in self.rows.values() for figure in row.figures.items()]
        click = min((f.seconds for d, f in figures if d is Definition.CLICK), default=1e6)
        return not figures, click


def _beside(group: _Group) -> PaperRow | None:
    for row in TABLE_3:
        if row.contestant == group.any.contestant and row.network in label(group.any):
            return row
    return None


def _measured(group: _Group, printed: PaperRow | None) -> TableRow:
    by_benchmark = group.rows
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
    if group.source:
        name += f" ({group.source})"
    cells = [
        name,
        printed.parameters if printed else "",
        f"{cost.parameters / 1e6:.2f}" if cost else "",
        _spread(encode.encode.median_s, encode.encode.low_s, encode.encode.high_s, encode.noisy)
        if encode and encode.encode
        else "",
        printed.spc if printed else "",
        _figure(figures.get(Definition.CLICK), 1e3),
        *(_average(by_benchmark.get(Benchmark.SPC), average) for average in (online_s, spread_s)),
        _figure(figures.get(Definition.LOOP), 1e3),
        _figure(figures.get(Definition.SESSION), 1e3),
        printed.sat if printed else "",
        *(_figure(figures.get(d), 1.0) for d in Definition if d.benchmark is Benchmark.SAT),
        printed.noc90 if printed else "",
        printed.miou5 if printed else "",
    ]
    return TableRow(cells, strong=is_ours(rows[0]) and bool(figures), quiet=not figures)


def _paper_only(row: PaperRow) -> TableRow:
    """A row of the paper without a measured row beside it."""
    printed = {
        "method": f"{row.method}, paper",
        f"parameters, M: {_PAPER}": row.parameters,
        f"SPC, ms per click: {_PAPER}": row.spc,
        f"SAT, s: {_PAPER}": row.sat,
        f"NoC90: {_PAPER}": row.noc90,
        f"5-mIoU: {_PAPER}": row.miou5,
    }
    return TableRow([printed.get(column.heading, "") for column in _COLUMNS])


def _average(row: LatencyRow | None, average: Callable[[LatencyRow], float | None]) -> str:
    seconds = average(row) if row is not None else None
    if row is None or seconds is None:
        return ""
    return _spread(1e3 * seconds, 0, 0, row.noisy)


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
