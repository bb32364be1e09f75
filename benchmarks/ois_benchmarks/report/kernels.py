"""Masked attention on a GPU (`kernels`) as a table: our kernels beside PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ois_benchmarks.report import svg
from ois_benchmarks.table import Column, Row, Table

_MEANING = (
    "Microseconds for all six attentions of a click, cold: the cache holds none of the inputs. "
    "PyTorch's has masks, K and V written out first; its attention alone is "
    "scaled_dot_product_attention with the mask, all of that done before. floor: the least "
    "arithmetic and memory traffic over what a large product and a large copy reached in that run."
)


def tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Raises `LookupError` or `TypeError` for a damaged document."""
    columns = [
        Column("patches"),
        Column("objects"),
        Column("kernels, us"),
        Column("PyTorch, us"),
        Column("its attention alone, us"),
        Column("floor, us"),
        Column("of the roof"),
        Column("faster"),
    ]
    rows = [Row(_cells(row)) for row in document["rows"]]
    call = document["rows"][0]["call"]
    title = f"{call['heads']} heads, {call['channels']} channels, {call['dtype']}"
    yield Table(f"{title}, {document['machine']['gpu']}", columns, rows, [_MEANING])


def _cells(row: Mapping[str, Any]) -> list[str]:
    kernels, torch = row["kernels_cold"]["median"], row["torch_cold"]["median"]
    return [
        str(row["call"]["keys"]),
        str(row["call"]["objects"]),
        _timed(row["kernels_cold"]),
        _timed(row["torch_cold"]),
        svg.number(row["fused_us"]),
        svg.number(row["floor_us"]),
        f"{row['floor_us'] / kernels:.0%}",
        f"{torch / kernels:.2f}x",
    ]


def _timed(us: Mapping[str, float]) -> str:
    """Median and interval, as the engine's table has them."""
    low, high = svg.number(us["low"]), svg.number(us["high"])
    return f"{svg.number(us['median'])}\n{low} to {high}"
