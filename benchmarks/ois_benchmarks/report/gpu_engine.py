"""The torch engine alone on a GPU (`gpu_engine`) as tables: its graphs, and shapes never seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ois_benchmarks.report import svg
from ois_benchmarks.table import Column, Row, Table

_MEANING = (
    "replay: one CUDA graph by CUDA events. call: the same as a user calls it, with copies and "
    "waiting. floor: counted FLOPs and bytes over what a large product and a large copy reached "
    "in that run; N objects are N times the FLOPs and the bytes of one."
)
_USES = "By use of the shape: the first runs plainly, the second captures the graph."


def tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Raises `KeyError` or `TypeError` for a damaged document."""
    where = f"{document['network']} at {document['size']}, {document['engine']}"
    columns = [
        Column("of", number=False),
        Column("replay, us"),
        Column("floor, us"),
        Column("of the roof"),
        Column("bound by", number=False),
        Column("masks, us"),
        Column("call, us"),
    ]
    rows = [Row(_cells(row)) for row in document["rows"]]
    stopped = document.get("stopped")
    notes = [_MEANING, *([f"It stopped there: {stopped}"] if stopped else [])]
    yield Table(f"{where}, {document['weights']} weights", columns, rows, notes)
    shapes = document["shapes"]
    if shapes:
        columns = [
            Column("new shape", number=False),
            Column("encode by use, ms"),
            Column("click by use, ms"),
        ]
        rows = [
            Row([f"{s['width']}x{s['height']}", _times(s["encode_ms"]), _times(s["click_ms"])])
            for s in shapes
        ]
        yield Table("Images of shapes that were not seen before", columns, rows, [_USES])


def _cells(row: Mapping[str, Any]) -> list[str]:
    replay, masks = row["replay"], row["masks"]
    return [
        f"click, {row['objects']} objects" if row["objects"] else "encode",
        f"{svg.number(replay['median'])}\n{svg.number(replay['low'])} to "
        f"{svg.number(replay['high'])}",
        svg.number(row["floor_us"]),
        f"{row['floor_us'] / replay['median']:.0%}",
        row["bound"],
        svg.number(masks["median"]) if masks else "",
        svg.number(row["call_us"]),
    ]


def _times(values: list[float]) -> str:
    return ", ".join(svg.number(value) for value in values)
