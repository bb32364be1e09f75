"""The quality result as a Markdown table, beside published rows where there are any.

Published rows come from a file, so that no number of a paper lives in this code: a JSON list
of objects with `method`, `dataset` (as this benchmark names it) and any of the metrics' keys,
for example `{"method": "SegNext", "dataset": "DAVIS345", "noc90": ..., "nof95_segnext": ...}`,
mIoU as a share of 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ois_benchmarks.quality.metrics import Kind, Metric
from ois_benchmarks.quality.result import model_name
from ois_benchmarks.results import read_json
from ois_benchmarks.statistics import Estimate
from ois_client.contract.errors import InvalidInput

_LISTED = 10
Row = dict[str, Any]


def read_published(path: Path) -> list[Row]:
    """Raises `InvalidInput` when the file is not such a list."""
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidInput(f"published rows {path}: expected a JSON list of objects, one a method")
    for row in rows:
        for key, value in row.items():
            text = key in ("method", "dataset")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (isinstance(value, str) if text else key in set(Metric) and number):
                raise InvalidInput(
                    f"published rows {path}: got {key!r}: {value!r}; expected method and dataset "
                    f"as text, and numbers named {', '.join(Metric)}"
                )
        if missing := {"method", "dataset"} - set(row):
            raise InvalidInput(f"published rows {path}: a row lacks {', '.join(sorted(missing))}")
    return rows


def summary_markdown(result: Row, published: list[Row] | None = None) -> str:
    """Headline table, difference to the compared run, IoU per click, and what went wrong."""
    dataset, clicks = result["dataset"]["name"], result["protocol"]["clicks"]
    metrics = [metric for metric in Metric if metric in result["metrics"]]
    lines = [
        f"**{dataset}**, {result['objects']} objects, {clicks} robot clicks;"
        " 95 % bootstrap intervals.",
        "",
        "| method | " + " | ".join(_heading(metric) for metric in metrics) + " |",
        "|---" * (len(metrics) + 1) + "|",
        _row(model_name(result["model"]), result["metrics"], metrics),
    ]
    compared = result.get("compared")
    if compared:
        lines.append(_row(model_name(compared["model"]), compared["other"]["metrics"], metrics))
        difference = compared["difference"]
        name = f"difference, {difference['objects']} pairs (**bold**: excludes 0)"
        lines.append(_row(name, difference["metrics"], metrics, signed=True))
    rows = [row for row in published or () if row["dataset"] == dataset]
    lines += [_published(row, metrics) for row in rows]
    if published is not None and not rows:
        lines += ["", f"No published row is about {dataset}."]
    lines += [
        "",
        f"NoF: objects. (SegNext): NoC is {clicks}, as its code counts, so a success exactly at "
        f"click {clicks} is a failure; (never): the IoU is not reached within {clicks} clicks.",
        "",
        "| clicks | " + " | ".join(str(k + 1) for k in range(len(result["curve"]))) + " |",
        "|---" * (len(result["curve"]) + 1) + "|",
        "| mean IoU | " + " | ".join(f"{100 * e['value']:.1f}" for e in result["curve"]) + " |",
    ]
    lines += _problems(result)
    machine = result["measured_on"]
    lines += [
        "",
        f"Model sha256 `{result['model']['sha256'][:16]}…`, {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['date'][:10]}, commit "
        f"{machine['commit'] or 'unknown'}.",
    ]
    if not result["model"]["trained"]:
        lines += ["", "The weights are random: these numbers say nothing about the method."]
    return "\n".join(lines) + "\n"


def _heading(metric: Metric) -> str:
    return f"{metric.label} {'↓' if metric.lower_is_better else '↑'}"


def _row(name: str, estimates: Row, metrics: list[Metric], *, signed: bool = False) -> str:
    cells = []
    for metric in metrics:
        estimate = estimates[metric]
        value, low, high = (
            _number(metric, estimate[part], signed) for part in ("value", "low", "high")
        )
        decided = signed and Estimate(**estimate).excludes_zero
        cells.append(f"{f'**{value}**' if decided else value} ({low} to {high})")
    return f"| {_cell(name)} | " + " | ".join(cells) + " |"


def _published(row: Row, metrics: list[Metric]) -> str:
    cells = [_number(metric, row[metric], False) if metric in row else "" for metric in metrics]
    return f"| {_cell(row['method'])} (published) | " + " | ".join(cells) + " |"


def _number(metric: Metric, value: float, signed: bool) -> str:
    """IoU in percent, as the papers print it; clicks with two digits; whole objects."""
    sign = "+" if signed else ""
    if metric.is_count:
        return f"{value:{sign}.0f}"
    return f"{100 * value:{sign}.2f}" if metric.kind is Kind.IOU else f"{value:{sign}.2f}"


def _problems(result: Row) -> list[str]:
    lines = []
    for count, what in (
        (len(result["failed"]), "failed"),
        (len(result["skipped"]), "skipped"),
        (len(result.get("compared", {}).get("in_one_run_only", [])), "in one of the runs only"),
    ):
        if count:
            lines.append(f"- {count} objects {what}")
    for reason, count in sorted(result["dataset"]["without_partner"].items()):
        lines.append(f"- {count} x {reason}")
    for entry in result["failed"][:_LISTED]:
        lines.append(
            f"  - {_cell(entry['name'])}, click {entry['click']}: {entry['code']}, "
            f"{_cell(entry['message'])}"
        )
    for entry in result["skipped"][:_LISTED]:
        lines.append(f"  - {_cell(entry['name'])}: {entry['reason']}")
    return ["", *lines] if lines else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
