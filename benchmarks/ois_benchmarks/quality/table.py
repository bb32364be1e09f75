"""A quality result as Markdown, beside published results where there are any.

The OIS paper's rows come from `ois_benchmarks.published`, others from a file: a JSON list of
objects with `method`, `dataset` (the name that this benchmark uses) and any keys of `Metric`, with
mIoU as a fraction of 1. For example:

    [{"method": "SegNext", "dataset": "DAVIS345", "noc90": ..., "nof95_segnext": ...}]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ois_benchmarks.quality.details import detail_tables
from ois_benchmarks.quality.metrics import Metric
from ois_benchmarks.quality.result import model_name
from ois_benchmarks.results import read_json
from ois_benchmarks.statistics import Estimate
from ois_benchmarks.table import Column, Table, TableRow
from ois_client.contract.errors import InvalidInput

#: Failed or skipped objects that are listed by name.
_LISTED = 10
#: A JSON object: a quality result, its metrics, or one published result.
Document = dict[str, Any]


def read_published(path: Path) -> list[Document]:
    """Read published results, see the top of this file.

    Raises `InvalidInput` if the file cannot be read or has another format.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidInput(
            f"published results {path}: got no list of objects; expected a JSON list with one "
            "object per method and data set"
        )
    for row in rows:
        for key, value in row.items():
            is_text = key in ("method", "dataset")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (isinstance(value, str) if is_text else key in set(Metric) and is_number):
                raise InvalidInput(
                    f"published results {path}: got {key!r}: {value!r}; expected method and "
                    f"dataset as text, and numbers named {', '.join(Metric)}"
                )
        if missing := {"method", "dataset"} - set(row):
            raise InvalidInput(
                f"published results {path}: got an object without {', '.join(sorted(missing))}; "
                "expected method and dataset in each"
            )
    return rows


def summary_markdown(
    result: Document, published: list[Document] | None = None, remarks: Sequence[str] = ()
) -> str:
    """Render every part of a result, with the difference to the compared run.

    published: results of `read_published`. Those about the same data set are shown. remarks: about
    them, for the notes.
    """
    dataset, clicks = result["dataset"]["name"], result["protocol"]["clicks"]
    chosen = [row for row in published or () if row["dataset"] == dataset]
    nof = (
        f"NoF counts objects. (SegNext): NoC is {clicks}, as SegNext's code counts, so a success "
        f"exactly at click {clicks} counts as a failure. (never): the IoU is not reached within "
        f"{clicks} clicks."
    )
    absent = f"No published result is about {dataset}."
    notes = [nof] if chosen or published is None else [absent, nof]
    notes += remarks
    machine, model = result["measured_on"], result["model"]
    parts = [
        f"**{dataset}**, {result['objects']} objects{_in_images(result)}, {clicks} robot clicks; "
        "95 % bootstrap intervals.\n",
        _metrics_table(result, chosen, notes).markdown(),
        _curve_table(result).markdown(),
        *(each.markdown() for each in detail_tables(result)),
        *_problems(result),
        f"Model sha256 `{model['sha256'][:16] or 'none'}…`, {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['date'][:10]}, commit "
        f"{machine['commit'] or 'unknown'}.\n",
    ]
    if not model["trained"]:
        parts.append("The weights are random: these numbers say nothing about the method.\n")
    return "\n".join(parts)


def _metrics_table(result: Document, published: list[Document], notes: list[str]) -> Table:
    metrics = [metric for metric in Metric if metric in result["metrics"]]
    rows = [_measured(model_name(result["model"]), result["metrics"], metrics)]
    if compared := result.get("compared"):
        rows.append(_measured(model_name(compared["model"]), compared["other"]["metrics"], metrics))
        difference = compared["difference"]
        name = f"difference, {difference['objects']} pairs (**bold**: excludes 0)"
        rows.append(_measured(name, difference["metrics"], metrics, signed=True))
    rows += [
        TableRow(
            [
                f"{row['method']} (published)",
                *(_number(each, row[each]) if each in row else "" for each in metrics),
            ]
        )
        for row in published
    ]
    headings = (f"{each.label} {'↓' if each.lower_is_better else '↑'}" for each in metrics)
    columns = [Column("method", number=False), *(Column(heading) for heading in headings)]
    return Table("", columns, rows, notes)


def _in_images(result: Document) -> str:
    images = result.get("images", result["objects"])
    return f" in {images} images" if images != result["objects"] else ""


def _measured(
    name: str, estimates: Document, metrics: list[Metric], *, signed: bool = False
) -> TableRow:
    cells = [name]
    for metric in metrics:
        estimate = estimates[metric]
        value, low, high = (
            _number(metric, estimate[part], signed) for part in ("value", "low", "high")
        )
        decided = signed and Estimate(**estimate).excludes_zero
        cells.append(f"{f'**{value}**' if decided else value}\n{low} to {high}")
    return TableRow(cells)


def _curve_table(result: Document) -> Table:
    curve = result["curve"]
    columns = [Column("clicks", number=False), *(Column(str(k + 1)) for k in range(len(curve)))]
    cells = ["mean IoU", *(f"{100 * point['value']:.1f}" for point in curve)]
    return Table("", columns, [TableRow(cells)])


def _number(metric: Metric, value: float, signed: bool = False) -> str:
    """Shares in percent, as papers print IoU; clicks with two decimals; whole objects."""
    sign = "+" if signed else ""
    if metric.is_count:
        return f"{value:{sign}.0f}"
    return f"{100 * value:{sign}.2f}" if metric.is_share else f"{value:{sign}.2f}"


def _problems(result: Document) -> list[str]:
    """A Markdown list of what failed, was skipped or has no partner; nothing if there is none."""
    lines = []
    for count, what in (
        (len(result["failed"]), "failed"),
        (len(result["skipped"]), "skipped"),
        (len(result.get("compared", {}).get("in_one_run_only", [])), "in only one of the runs"),
    ):
        if count:
            lines.append(f"- {count} objects {what}")
    for reason, count in sorted(result["dataset"]["without_partner"].items()):
        lines.append(f"- {count} x {reason}")
    for entry in result["failed"][:_LISTED]:
        lines.append(
            f"  - {_one_line(entry['name'])}, click {entry['click']}: {entry['code']}, "
            f"{_one_line(entry['message'])}"
        )
    for entry in result["skipped"][:_LISTED]:
        lines.append(f"  - {_one_line(entry['name'])}: {entry['reason']}")
    return ["\n".join([*lines, ""])] if lines else []


def _one_line(text: str) -> str:
    return text.replace("\n", " ")
