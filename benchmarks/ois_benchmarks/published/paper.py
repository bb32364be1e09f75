"""Tables 1 to 5 of "Order-aware Interactive Segmentation" (arXiv 2410.12214), as printed.

The numbers are in `paper.json`. They stay texts, so that 3.80 is not shown as 3.8, and a dash where
the paper prints one. mIoU is in percent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

#: The methods of the paper, OIS itself.
OURS = "OIS"

#: Key of a column -> its heading.
HEADINGS = {
    "noc90": "NoC90",
    "noc95": "NoC95",
    "miou1": "1-mIoU",
    "miou5": "5-mIoU",
    "nof95": "NoF95",
    "parameters": "parameters, M",
    "spc": "SPC, ms",
    "sat": "SAT, s",
}

#: The paper prints one NoF95 and does not say how it counts, so its number belongs to both.
_READINGS = {"nof95": ("nof95_segnext", "nof95_never")}

NOF_NOTE = (
    "The paper prints one NoF95, without saying how it counts; its text defines a failure as "
    "needing more than 20 clicks to reach 90 %. Measured here are both readings: NoC is 20, as "
    "SegNext's code counts, and the IoU is never reached within 20 clicks."
)


@dataclass(frozen=True, slots=True)
class PaperRow:
    """method: as printed. values: key of a column -> text, "-" if the paper prints a dash.

    group: 1, or 2 for the second group of Tables 1 and 2, whose caption is lost. remark: what the
    row removes or adds.
    """

    method: str
    values: Mapping[str, str]
    group: int = 1
    remark: str = ""

    @property
    def label(self) -> str:
        return f"{self.method}, second group" if self.group == 2 else self.method


@dataclass(frozen=True, slots=True)
class PaperTable:
    """dataset: its name in `ois bench quality`. columns: keys of `HEADINGS`."""

    number: int
    title: str
    dataset: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]

    def row(self, method: str, group: int = 1) -> PaperRow:
        """Raises `KeyError` if the table has no such row."""
        for row in self.rows:
            if (row.method, row.group) == (method, group):
                return row
        raise KeyError(method)


@dataclass(frozen=True, slots=True)
class Paper:
    """remarks: what readers of the numbers must know."""

    name: str
    source: str
    remarks: tuple[str, ...]
    tables: Mapping[int, PaperTable]

    @property
    def citation(self) -> str:
        return f"{self.name}, {self.source}"


@cache
def paper() -> Paper:
    """The paper's tables."""
    text = resources.files(__package__).joinpath("paper.json").read_text(encoding="utf-8")
    data = json.loads(text)
    tables = {table["number"]: _table(table) for table in data["tables"]}
    return Paper(data["paper"], data["source"], tuple(data["remarks"]), tables)


def quality_rows(dataset: str) -> list[dict[str, Any]]:
    """The paper's rows about a data set, in the form of `quality.table.read_published`.

    dataset: the name that `ois bench quality` gives it. Empty for other data sets.
    """
    rows: list[dict[str, Any]] = []
    for number in (1, 2):
        table = paper().tables[number]
        if table.dataset != dataset:
            continue
        for row in table.rows:
            numbers: dict[str, float] = {}
            for key, text in row.values.items():
                if text != "-":
                    value = float(text) / 100 if key.startswith("miou") else float(text)
                    numbers |= dict.fromkeys(_READINGS.get(key, (key,)), value)
            rows.append({"method": row.label, "dataset": dataset, **numbers})
    return rows


def _table(data: Mapping[str, Any]) -> PaperTable:
    columns = tuple(data["columns"])
    rows = tuple(
        PaperRow(
            row["method"],
            {key: row[key] for key in columns},
            row.get("group", 1),
            row.get("remark", ""),
        )
        for row in data["rows"]
    )
    return PaperTable(data["number"], data["title"], data["dataset"], columns, rows)
