"""The paper's Tables 1, 2, 4 and 5 beside what was measured. (`table3.py` has Table 3.)

A cell is blank where nothing was measured. Nothing is taken from another cell or computed from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ois_benchmarks.ablation.result import cell, described, table_of
from ois_benchmarks.published.paper import HEADINGS, NOF_NOTE, OURS, PaperTable, paper
from ois_benchmarks.quality.metrics import Kind, Metric
from ois_benchmarks.quality.result import model_name
from ois_benchmarks.report.inputs import Source
from ois_benchmarks.report.page import Block, Section
from ois_benchmarks.table import Column, Table, TableRow

_PAPER, _HERE = "paper", "here"

#: Key of a column of the paper -> what is measured here.
_MEASURED: dict[str, tuple[tuple[str, Metric], ...]] = {
    "noc90": ((_HERE, Metric.NOC90),),
    "noc95": ((_HERE, Metric.NOC95),),
    "miou1": ((_HERE, Metric.MIOU1),),
    "miou5": ((_HERE, Metric.MIOU5),),
    "nof95": (
        ("here, as SegNext's code counts", Metric.NOF95_SEGNEXT),
        ("here, never 95 %", Metric.NOF95_NEVER),
        ("here, never 90 %", Metric.NOF90_NEVER),
    ),
}
_NOT_RUN = {
    "MM-SAM": "not run here: SAM ViT-B with an extra encoder of depth and a gate, trained on RGB-D "
    "data; the examples of its public code answer boxes, and the paper does not say which "
    "weights it used"
}


def quality_tables(
    sources: Sequence[Source], published: Sequence[Mapping[str, Any]] = ()
) -> Section:
    """Tables 1 and 2, and one such table for each other data set that was measured.

    published: more rows, see `quality.table.read_published`.
    """
    blocks: list[Block] = []
    tables = {paper().tables[number].dataset: paper().tables[number] for number in (1, 2)}
    measured = {str(source.document["dataset"]["name"]) for source in sources}
    given = {str(row["dataset"]) for row in published}
    for dataset in dict.fromkeys([*tables, *sorted(measured | given)]):
        runs = [s.document for s in sources if s.document["dataset"]["name"] == dataset]
        more = [row for row in published if row["dataset"] == dataset]
        blocks.append(_quality_table(dataset, tables.get(dataset), runs, more))
    return Section("Quality: the paper's Tables 1 and 2, and other data", blocks)


def _quality_table(
    dataset: str,
    table: PaperTable | None,
    runs: Sequence[Mapping[str, Any]],
    published: Sequence[Mapping[str, Any]],
) -> Table:
    keys = table.columns if table is not None else paper().tables[1].columns
    columns = [Column("method", number=False), *_columns(keys)]
    rows = [
        TableRow([f"{row.label}, {_PAPER}", *_cells(keys, row.values)])
        for row in (table.rows if table is not None else ())
    ]
    for row in published:
        texts = {key: _number(m, row[m]) for key in keys for _, m in _MEASURED[key] if m in row}
        rows.append(TableRow([f"{row['method']}, published", *_cells(keys, texts)]))
    for run in runs:
        name = model_name(run["model"])
        if not run["model"]["trained"]:
            name += ", random weights"
        rows.append(TableRow([name, *_cells(keys, {}, run["metrics"])], strong=True))
    if table is None:
        return Table(f"Measured on {dataset}", columns, rows, [NOF_NOTE]).without_empty_columns()
    title = f"Table {table.number} of the paper: {table.title}"
    if not runs:
        title += "; not measured here yet"
    notes = [f"Paper: {paper().citation}. {paper().remarks[1]} {paper().remarks[4]}", NOF_NOTE]
    return Table(title, columns, rows, notes)


def ablation_tables(sources: Sequence[Source]) -> Section:
    """Tables 4 and 5 beside each run of `ois bench ablation`, and the run's other variants."""
    blocks: list[Block] = []
    for number in (4, 5):
        table = paper().tables[number]
        blocks.append(_ablation_table(table, [source.document for source in sources]))
    for source in sources:
        blocks.append(f"{source.name}: every variant, with its difference from the default.")
        blocks.append(table_of(source.document))
    return Section("Ablations: the paper's Tables 4 and 5", blocks)


def _ablation_table(table: PaperTable, runs: Sequence[Mapping[str, Any]]) -> Table:
    columns = [Column("variant", number=False), *_columns(table.columns)]
    rows: list[TableRow] = []
    for row in table.rows:
        name = f"{row.method}, {_PAPER}"
        if row.method in _NOT_RUN:
            name += f" ({_NOT_RUN[row.method]})"
        elif row.remark:
            name += f" ({row.remark})"
        rows.append(TableRow([name, *_cells(table.columns, row.values)]))
        for run in runs:
            found = _variant(run, "full" if row.method == OURS else row.method)
            if found is not None:
                who = f"{run['checkpoint']}, {found['label']}, on {described(run)}"
                rows.append(TableRow([who, *_differences(table.columns, found)], strong=True))
    title = f"Table {table.number} of the paper: {table.title}"
    if len(rows) == len(table.rows):
        title += "; not measured here yet"
    notes = [
        f"Paper: {paper().citation}, with ViT-B on DAVIS. Here: the network, the data and the "
        "training of each run are those of `ois bench ablation`, so compare differences and not "
        "levels. In brackets: the difference from the default and its 95 % interval over seeds and "
        "objects; bold if the interval excludes zero. mIoU here is a fraction of 1.",
        NOF_NOTE,
    ]
    return Table(title, columns, rows, notes)


def _variant(run: Mapping[str, Any], row: str) -> Mapping[str, Any] | None:
    """The run's variant that stands for a row of the paper. Runs of earlier versions have none:
    their variants removed less."""
    for entry in run["table"]:
        if entry.get("row") == row:
            return dict(entry)
    return None


def _columns(keys: Sequence[str]) -> list[Column]:
    return [
        Column(name, HEADINGS[key])
        for key in keys
        for name in (_PAPER, *(here for here, _ in _MEASURED[key]))
    ]


def _cells(
    keys: Sequence[str],
    printed: Mapping[str, str],
    metrics: Mapping[str, Mapping[str, float]] | None = None,
) -> list[str]:
    """The cells of one line. printed: by key. metrics: a quality result's."""
    cells = []
    for key in keys:
        cells.append(printed.get(key, ""))
        cells += [_measured(metric, (metrics or {}).get(metric)) for _, metric in _MEASURED[key]]
    return cells


def _differences(keys: Sequence[str], entry: Mapping[str, Any]) -> list[str]:
    cells = []
    for key in keys:
        cells.append("")
        cells += [cell(entry, metric) if metric in entry else "" for _, metric in _MEASURED[key]]
    return cells


def _measured(metric: Metric, estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return ""
    value, low, high = (_number(metric, estimate[part]) for part in ("value", "low", "high"))
    return f"{value}\n{low} to {high}"


def _number(metric: Metric, value: float) -> str:
    if metric.is_count:
        return f"{value:.0f}"
    return f"{100 * value:.2f}" if metric.kind is Kind.IOU else f"{value:.2f}"
