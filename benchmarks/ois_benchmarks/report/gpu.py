"""Results of `ois bench gpu-engine` and `ois bench kernels` as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ois_benchmarks.table import Column, Table, TableRow, format_number

_ENGINE_NOTE = (
    "replay: one CUDA graph, timed by CUDA events. call: the same with copies and waiting, as a "
    "user calls it. floor: counted FLOPs and bytes divided by the rates of a large matrix product "
    "and a large copy in the same run; N objects count as N times the FLOPs and bytes of one."
)
_SHAPES_NOTE = (
    "By use of the shape: the first call runs without a graph, the second captures the graph."
)
_KERNELS_NOTE = (
    "Microseconds for all six attentions of a click, with none of the inputs in the cache. "
    "PyTorch: masks, K and V are written to memory first. Attention alone: "
    "scaled_dot_product_attention with the mask, after all that. floor: the least arithmetic and "
    "memory traffic divided by the rates of a large matrix product and a large copy in the same "
    "run."
)


def engine_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """The torch engine's CUDA graphs, and images of shapes that it had not seen before.

    Raises `LookupError` or `TypeError` for a damaged document.
    """
    where = f"{document['network']} at {document['size']}, {document['engine']}"
    columns = [
        Column("graph", number=False),
        Column("replay, us"),
        Column("floor, us"),
        Column("of the roof"),
        Column("bound by", number=False),
        Column("masks, us"),
        Column("call, us"),
    ]
    rows = [TableRow(_engine_cells(row)) for row in document["rows"]]
    stopped = document.get("stopped")
    notes = [_ENGINE_NOTE, *([f"The run stopped early: {stopped}"] if stopped else [])]
    yield Table(f"{where}, {document['weights']} weights", columns, rows, notes)
    shapes = document["shapes"]
    if shapes:
        columns = [
            Column("new shape", number=False),
            Column("encode by use, ms"),
            Column("click by use, ms"),
        ]
        rows = [
            TableRow([f"{s['width']}x{s['height']}", _list(s["encode_ms"]), _list(s["click_ms"])])
            for s in shapes
        ]
        yield Table("Images of shapes that were not seen before", columns, rows, [_SHAPES_NOTE])


def kernel_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Masked attention: our kernels beside PyTorch's.

    Raises `LookupError` or `TypeError` for a damaged document.
    """
    columns = [
        Column("patches"),
        Column("objects"),
        Column("kernels, us"),
        Column("PyTorch, us"),
        Column("attention alone, us"),
        Column("floor, us"),
        Column("of the roof"),
        Column("faster"),
    ]
    rows = [TableRow(_kernel_cells(row)) for row in document["rows"]]
    call = document["rows"][0]["call"]
    title = f"{call['heads']} heads, {call['channels']} channels, {call['dtype']}"
    yield Table(f"{title}, {document['machine']['gpu']}", columns, rows, [_KERNELS_NOTE])


def _engine_cells(row: Mapping[str, Any]) -> list[str]:
    replay, masks = row["replay"], row["masks"]
    return [
        f"click, {row['objects']} objects" if row["objects"] else "encode",
        _interval(replay),
        format_number(row["floor_us"]),
        f"{row['floor_us'] / replay['median']:.0%}",
        row["bound"],
        format_number(masks["median"]) if masks else "",
        format_number(row["call_us"]),
    ]


def _kernel_cells(row: Mapping[str, Any]) -> list[str]:
    kernels, torch = row["kernels_cold"]["median"], row["torch_cold"]["median"]
    return [
        str(row["call"]["keys"]),
        str(row["call"]["objects"]),
        _interval(row["kernels_cold"]),
        _interval(row["torch_cold"]),
        format_number(row["fused_us"]),
        format_number(row["floor_us"]),
        f"{row['floor_us'] / kernels:.0%}",
        f"{torch / kernels:.2f}x",
    ]


def _interval(us: Mapping[str, float]) -> str:
    low, high = format_number(us["low"]), format_number(us["high"])
    return f"{format_number(us['median'])}\n{low} to {high}"


def _list(values: list[float]) -> str:
    return ", ".join(format_number(value) for value in values)
