"""The tables of a readout and of a check, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ois_benchmarks.table import Column, Table, TableRow

_TIMES = (
    Column("click p50, ms"),
    Column("click p99, ms"),
    Column("open p50, ms"),
    Column("open p99, ms"),
    Column("clicks that find features"),
    Column("evictions/s"),
)


def markdown(document: Mapping[str, Any]) -> str:
    """All tables of a readout."""
    plan = document["plan"]
    middle, load = plan["middle"], plan["load"]
    tables = [
        Table(
            f"{load:.0%} load",
            [Column("replicas"), Column("people"), Column("clicks/s"), *_TIMES],
            [
                _row(
                    [
                        f"{one['replicas']:,}",
                        f"{one['people']:,}",
                        f"{one['clicks_per_second']:,.0f}",
                    ],
                    one,
                )
                for one in document["sizes"]
            ],
        ),
        Table(
            f"{middle} replicas, by load",
            [Column("load"), Column("people"), *_TIMES],
            [_row([f"{one['load']:.0%}", f"{one['people']:,}"], one) for one in document["loads"]],
        ),
        Table(
            f"{middle} replicas, {load:.0%} load, by --balance of the edge",
            [Column("balance"), *_TIMES],
            [_row([f"{one['percent']} %"], one) for one in document["balances"]],
        ),
        Table(
            f"{middle} replicas, {load:.0%} load, by memory for features",
            [Column("stored / in use"), *_TIMES],
            [_row([f"{one['of_images_in_use']:g}"], one) for one in document["stores"]],
        ),
        Table(
            f"A replica is killed, and is back, empty, after {document['losses'][0]['down_s']:g} s",
            [
                Column("replicas"),
                Column("images that move"),
                Column("without need"),
                Column("find features: before"),
                Column("worst 2 s: lost"),
                Column("back"),
                Column("worse for, s: lost"),
                Column("back"),
                Column("click p99, ms: before"),
                Column("worst 2 s: lost"),
                Column("back"),
                Column("worse for, s: lost"),
                Column("back"),
            ],
            [_loss(one) for one in document["losses"]],
        ),
    ]
    return "\n".join(table.markdown() for table in tables)


def _row(first: Sequence[str], one: Mapping[str, Any]) -> TableRow:
    clicks, opens = one["clicks"], one["opens"]
    return TableRow(
        [
            *first,
            *(f"{times[name]:,.0f}" for times in (clicks, opens) for name in ("p50", "p99")),
            f"{clicks['hit_share']:.1%}",
            f"{one['evictions_per_second']:,.1f}",
        ]
    )


def _loss(one: Mapping[str, Any]) -> TableRow:
    cells = [
        f"{one['replicas']:,}",
        f"{one['images_moved']:.2%}",
        f"{one['images_moved_without_need']:.2%}",
    ]
    for name, form in (("hit_share", "{:.1%}"), ("p99_ms", "{:,.0f}")):
        lost, back = one["lost"][name], one["back"][name]
        cells += [
            "" if value is None else form.format(value)
            for value in (lost["before"], lost["worst"], back["worst"])
        ]
        cells += [f"{phase['suffers_s']:.0f}" for phase in (lost, back)]
    return TableRow(cells)


def agreement(document: Mapping[str, Any]) -> str:
    """The comparison of a check."""
    bounds = document["bounds"]
    rows = []
    for one in document["agreement"]:
        share = one["what"].endswith("hit_share")
        form = "{:.1%}" if share else "{:,.1f} ms"
        bound = bounds[one["what"].split()[1]]
        rows.append(
            TableRow(
                [
                    one["what"],
                    form.format(one["measured"]),
                    form.format(one["simulated"]),
                    f"{one['off']:.3f}" if share else f"{one['off']:.2f} x",
                    f"{bound}" if share else f"{bound} x",
                    "yes" if one["within"] else "NO",
                ]
            )
        )
    title = (
        f"{document['servers']} servers, {document['sessions']} sessions in "
        f"{document['seconds']:g} s, stores for {document['store_images']} images each"
    )
    columns = ["", "measured", "simulated", "apart", "bound", "within"]
    return Table(title, [Column(name, number=bool(name)) for name in columns], rows).markdown()
