"""Tables of results, printed as Markdown or as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby


@dataclass(frozen=True, slots=True)
class Column:
    """group: heading over several columns; "" for none. number: align to the right."""

    name: str
    group: str = ""
    number: bool = True

    @property
    def heading(self) -> str:
        return f"{self.group}: {self.name}" if self.group else self.name


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line. A line break in a cell separates a number from its interval.

    strong: highlight the line. quiet: the first cell holds a reason and spans all columns.
    """

    cells: Sequence[str]
    strong: bool = False
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """title: "" for none. notes: paragraphs below the table."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[TableRow]
    notes: Sequence[str] = field(default=())

    def without_empty_columns(self) -> Table:
        """The table without columns whose cells are all empty."""
        kept = [
            number
            for number in range(len(self.columns))
            if any(row.cells[number] for row in self.rows)
        ]
        return Table(
            self.title,
            [self.columns[n] for n in kept],
            [TableRow([row.cells[n] for n in kept], row.strong, row.quiet) for row in self.rows],
            self.notes,
        )

    def markdown(self) -> str:
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += [
            "| " + " | ".join(_cell(column.heading) for column in self.columns) + " |",
            "|" + "|".join("---:" if column.number else "---" for column in self.columns) + "|",
        ]
        for row in self.rows:
            cells = [_cell(cell) for cell in row.cells]
            if row.strong:
                cells[0] = f"**{cells[0]}**"
            lines.append("| " + " | ".join(cells) + " |")
        lines += [line for note in self.notes for line in ("", note)]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        grouped = any(column.group for column in self.columns)
        head = ""
        if grouped:
            cells = []
            for group, columns in groupby(self.columns, key=lambda column: column.group):
                span = len(list(columns))
                kind = ' class="group"' if group else ""
                cells.append(f'<th colspan="{span}"{kind}>{escape(group)}</th>')
            head = f"<tr>{''.join(cells)}</tr>"
        names = "".join(
            f"<th{_number_class(column)}>{escape(column.name)}</th>" for column in self.columns
        )
        body = "\n".join(self._html_row(row) for row in self.rows)
        notes = "".join(f'<p class="note">{escape(note)}</p>' for note in self.notes)
        return (
            f'<figure class="table"><figcaption>{escape(self.title)}</figcaption>'
            f'<div class="scroll"><table><thead>{head}<tr>{names}</tr></thead>'
            f"<tbody>\n{body}\n</tbody></table></div>{notes}</figure>"
        )

    def _html_row(self, row: TableRow) -> str:
        kinds = " ".join(kind for kind, on in (("strong", row.strong), ("quiet", row.quiet)) if on)
        if row.quiet:
            cells = f'<td colspan="{len(self.columns)}">{escape(row.cells[0])}</td>'
        else:
            cells = "".join(
                f"<td{_number_class(column)}>{_html_cell(cell)}</td>"
                for column, cell in zip(self.columns, row.cells, strict=True)
            )
        return f'<tr class="{kinds}">{cells}</tr>' if kinds else f"<tr>{cells}</tr>"


def format_number(value: float) -> str:
    """Three significant digits without an exponent: 0.144, 14.0, 1,440."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _number_class(column: Column) -> str:
    return ' class="number"' if column.number else ""


def _cell(text: str) -> str:
    value, _, interval = text.replace("|", "\\|").partition("\n")
    return f"{value} ({interval})" if interval else value


def _html_cell(text: str) -> str:
    value, _, interval = text.partition("\n")
    return escape(value) + (f"<small>{escape(interval)}</small>" if interval else "")
