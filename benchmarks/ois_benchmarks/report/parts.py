"""What a report consists of, before it is HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ois_benchmarks.table import Table


@dataclass(frozen=True, slots=True)
class Picture:
    """svg: an inline element. title: the finding it shows. caption: what was measured."""

    svg: str = field(repr=False)
    title: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """blocks: in the order in which they are read; a text is a paragraph."""

    title: str
    blocks: Sequence[Picture | Table | str]


@dataclass(frozen=True, slots=True)
class Report:
    """findings: one sentence each, for the top of the page."""

    title: str
    findings: Sequence[str]
    sections: Sequence[Section]
