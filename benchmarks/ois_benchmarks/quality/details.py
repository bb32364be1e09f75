"""The details of a quality result as tables: clicks, boundaries, sizes, thinness, worst objects."""

from __future__ import annotations

from typing import Any

from ois_benchmarks.quality.objects import AFTER
from ois_benchmarks.quality.order import Order
from ois_benchmarks.quality.result import model_name
from ois_benchmarks.quality.safety import ClickMetric
from ois_benchmarks.statistics import Estimate
from ois_benchmarks.table import Column, Table, TableRow

#: A JSON object: a quality result or a part of it.
Document = dict[str, Any]
#: Name, summary, and whether it is a difference.
Runs = list[tuple[str, Document, bool]]


def detail_tables(result: Document) -> list[Table]:
    """The tables of a result; none for results of earlier versions."""
    runs = [(model_name(result["model"]), result, False)]
    if compared := result.get("compared"):
        runs.append((model_name(compared["model"]), compared["other"], False))
        runs.append(("difference", compared["difference"], True))
    tables = []
    if "clicks" in result:
        tables.append(_clicks_table(runs))
    if result.get("boundary"):
        tables.append(_boundary_table(runs))
    if result.get("by_size"):
        tables.append(_group_table(result["by_size"], "size", "share of the image"))
    tables += [table for table in (thinness_table(result), worst_table(result)) if table]
    return tables


def thinness_table(result: Document) -> Table | None:
    """Mean IoU by thinness; None for results of earlier versions."""
    if not result.get("by_thinness"):
        return None
    return _group_table(result["by_thinness"], "thinness", "thinness (a disk has 1)")


def _clicks_table(runs: Runs) -> Table:
    groups = {"lost": "lose > 5 points, %", "gain": "mean gain, points", "right": "pixel right, %"}
    columns = [
        Column("clicks after the first", number=False),
        *(Column(metric.heading, groups[metric.quantity]) for metric in ClickMetric),
    ]
    rows = []
    for name, summary, signed in runs:
        found = summary.get("clicks", {})
        cells = [
            _percent(found.get(metric), signed=signed or metric.quantity == "gain", bold=signed)
            for metric in ClickMetric
        ]
        rows.append(TableRow([name, *cells]))
    notes = [
        "Pixel right: the clicked pixel is inside the mask after a positive click, outside after "
        "a negative one."
    ]
    return Table("", columns, rows, notes)


def _boundary_table(runs: Runs) -> Table:
    distances = list(runs[0][1]["boundary"])
    clicks = [k for k in AFTER if k <= len(runs[0][1]["curve"])]
    columns = [
        Column("boundary IoU, %", number=False),
        *(Column(_after(k), f"within {distance}") for distance in distances for k in clicks),
    ]
    rows = []
    for name, summary, signed in runs:
        found = summary.get("boundary") or {}
        cells = [
            _percent(found[distance][k - 1] if distance in found else None, signed, signed)
            for distance in distances
            for k in clicks
        ]
        rows.append(TableRow([name, *cells]))
    return Table("", columns, rows)


def _group_table(groups: list[Document], key: str, heading: str) -> Table:
    clicks = list(groups[0]["miou"])
    columns = [
        Column(heading, number=False),
        Column("objects"),
        *(Column(_after(k), "mean IoU, %") for k in clicks),
    ]
    rows = [
        TableRow([one[key], str(one["objects"]), *(_percent(one["miou"][k]) for k in clicks)])
        for one in groups
    ]
    return Table("", columns, rows)


def worst_table(result: Document) -> Table | None:
    """The worst objects of a result, in its order. What an earlier version did not write is left
    out; None if it listed none.
    """
    objects: list[Document] = result.get("worst") or []
    if not objects:
        return None
    clicks = list(objects[0]["iou"])
    columns = [
        Column(Order.named(result.get("worst_order", "iou")).heading, number=False),
        Column("share of the image, %"),
        Column("thinness"),
        Column("clicks to 90 %"),
        *(Column(_after(k), "IoU, %") for k in clicks),
    ]
    rows = [
        TableRow(
            [
                one["name"].replace("\n", " "),
                f"{100 * one['share']:.1f}",
                "" if one.get("thinness") is None else f"{one['thinness']:.1f}",
                _clicks_to_90(one),
                *(f"{100 * one['iou'][k]:.1f}" for k in clicks),
            ]
        )
        for one in objects
    ]
    return Table("", columns, rows).without_empty_columns()


def _clicks_to_90(one: Document) -> str:
    if "clicks" not in one:
        return ""
    return "never" if one["clicks"] is None else str(one["clicks"])


def _after(clicks: int | str) -> str:
    return f"{clicks} click{'s' if int(clicks) > 1 else ''}"


def _percent(estimate: Document | None, signed: bool = False, bold: bool = False) -> str:
    """An estimate from 0 to 1 in percent, with its interval; blank if there is none."""
    if estimate is None:
        return ""
    sign = "+" if signed else ""
    value, low, high = (f"{100 * estimate[part]:{sign}.1f}" for part in ("value", "low", "high"))
    decided = bold and Estimate(**estimate).excludes_zero
    return f"{f'**{value}**' if decided else value}\n{low} to {high}"
