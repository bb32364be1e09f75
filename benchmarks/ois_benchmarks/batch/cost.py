"""`ois bench batch-cost`: what a million images take and cost, by a formula from measured rates.

    machine hours = images / (3600 · images per second of one machine)
    hours         = machine hours / machines + start
    cost          = machine hours · price of a machine hour
                  + images · bytes per image / 10⁹ · price of a GB month · months     (encode only)

The rate is measured. Prices are the user's. Machines do not wait for each other: they share the
list of images and nothing else, so the rate of many is taken as that of one times their number.
What that leaves out is named with the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ois_benchmarks.table import Column, Table, TableRow, format_number
from ois_client.contract.errors import InvalidInput

#: The network before the cut, which nobody serves.
_REFERENCE = "torch-unrewritten"
LEFT_OUT = (
    "Left out: transfer of the images to the machines (compare their network with images per "
    "second times bytes per image), requests to the object store, a slow last machine, restarts."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """In one currency of the user's. gb_month: of stored features. Raises `InvalidInput` if a
    value is not possible."""

    machine_hour: float
    gb_month: float = 0.0
    months: float = 1.0

    def __post_init__(self) -> None:
        if min(self.machine_hour, self.gb_month, self.months) < 0:
            raise InvalidInput(f"got {self}; expected prices and months of 0 or more")


@dataclass(frozen=True, slots=True)
class Rate:
    """name: what was measured. images_per_s: of one machine. bytes_per_image: of stored features;
    0 if none are stored."""

    name: str
    images_per_s: float
    start_s: float = 0.0
    bytes_per_image: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """hours: from start to end on all machines. stored_gb: 10⁹ bytes."""

    images: int
    machine_hours: float
    hours: float
    stored_gb: float
    cost: float


def estimate(rate: Rate, images: int, machines: int, prices: Prices) -> Estimate:
    """Apply the formula of this module."""
    machine_hours = images / (3600 * rate.images_per_s)
    stored_gb = images * rate.bytes_per_image / 1e9
    return Estimate(
        images,
        machine_hours,
        machine_hours / machines + rate.start_s / 3600,
        stored_gb,
        machine_hours * prices.machine_hour + stored_gb * prices.gb_month * prices.months,
    )


def rates(document: Mapping[str, Any], clicks: int) -> Iterator[Rate]:
    """The rates in a result of `ois bench batch` or `ois bench engines`.

    clicks: per image, for `ois bench engines`, which measures encodes and clicks. These rates leave
    out the decoding of the file and the encoding of the mask. Features on disk are fp16, half of
    the engines' state. Raises `InvalidInput` for another document.
    """
    kind = document.get("benchmark")
    if kind == "batch":
        for row in document["rows"]:
            yield Rate(f"{row['task']}: {row['way']}", row["images_per_s"], row["start_s"])
    elif kind == "engines":
        for row in document["rows"]:
            if row["contestant"] != _REFERENCE and "encode" in row and "click" in row:
                encode, click = (row[part]["median_s"] for part in ("encode", "click"))
                name = f"{row['contestant']} {row['width']}x{row['height']}"
                bytes_per_image = row["state_bytes"] // 2
                yield Rate(f"annotate: {name}", 1 / (encode + clicks * click))
                yield Rate(f"encode: {name}", 1 / encode, 0.0, bytes_per_image)
    else:
        raise InvalidInput(
            f"got a result of the benchmark {kind!r}; expected one of `ois bench batch` or `ois "
            "bench engines`"
        )


def document_of(
    measured: Mapping[str, Any],
    source: str,
    clicks: int,
    images: list[int],
    machines: int,
    prices: Prices,
) -> dict[str, Any]:
    """The estimates for every rate, JSON-ready. source: name of the measured result."""
    rows = []
    for rate in rates(measured, clicks):
        for count in images:
            found = estimate(rate, count, machines, prices)
            rows.append(
                {
                    "name": rate.name,
                    "images_per_s": rate.images_per_s,
                    "images": count,
                    "machine_hours": found.machine_hours,
                    "hours": found.hours,
                    "stored_gb": found.stored_gb,
                    "cost": found.cost,
                }
            )
    return {
        "estimate": "batch-cost",
        "measured": source,
        "cpu": measured["machine"]["cpu"],
        "cores": measured["machine"]["cores"],
        "clicks_per_image": measured.get("clicks_per_image", clicks),
        "machines": machines,
        "prices": {
            "machine_hour": prices.machine_hour,
            "gb_month": prices.gb_month,
            "months": prices.months,
        },
        "left_out": LEFT_OUT,
        "rows": rows,
    }


def table(document: Mapping[str, Any]) -> str:
    """The estimates as Markdown."""
    columns = [
        Column("measured", number=False),
        Column("images per second"),
        Column("images"),
        Column("machine hours"),
        Column(f"hours on {document['machines']}"),
        Column("stored, GB"),
        Column("cost"),
    ]
    rows = [
        TableRow(
            [
                row["name"],
                format_number(row["images_per_s"]),
                f"{row['images']:,}",
                format_number(row["machine_hours"]),
                format_number(row["hours"]),
                format_number(row["stored_gb"]) if row["stored_gb"] else "",
                format_number(row["cost"]),
            ]
        )
        for row in document["rows"]
    ]
    prices = document["prices"]
    note = (
        f"From {document['measured']} ({document['cores']} cores, {document['cpu']}), "
        f"{document['clicks_per_image']} clicks per image; {prices['machine_hour']:g} per machine "
        f"hour, {prices['gb_month']:g} per GB month for {prices['months']:g} months."
    )
    return Table("", columns, rows, [note, document["left_out"]]).markdown()
