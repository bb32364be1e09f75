"""A report: findings and sections of charts, tables and pictures, as HTML and as Markdown."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path

from ois_benchmarks.plotting import themed
from ois_benchmarks.table import Table
from ois_client.contract.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Chart:
    """svg: an inline element. title: the finding that it shows. caption: what was measured."""

    svg: str = field(repr=False)
    title: str
    caption: str = ""


#: Of the pictures that a page can hold, by suffix.
MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture of pixels, which becomes part of the page. path: with a suffix of `MEDIA_TYPES`.
    title, caption: as of a chart.
    """

    path: Path
    title: str
    caption: str = ""


#: A text is a paragraph.
Block = Chart | Photo | Table | str


@dataclass(frozen=True, slots=True)
class Section:
    """blocks: in reading order."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Report:
    """findings: one sentence each, for the top of the page."""

    title: str
    findings: Sequence[str]
    sections: Sequence[Section]

    def html(self) -> str:
        """One page for light and dark screens and for print. It loads nothing from elsewhere.

        Raises `InvalidInput` if a picture cannot be read.
        """
        style = resources.files("ois_benchmarks.report").joinpath("report.css")
        findings = "".join(f"<li>{escape(finding)}</li>" for finding in self.findings)
        links = " · ".join(
            f'<a href="#part-{number}">{escape(section.title)}</a>'
            for number, section in enumerate(self.sections)
        )
        sections = "\n".join(
            _section_html(section, f"part-{number}") for number, section in enumerate(self.sections)
        )
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(self.title)}</title>
<style>
{style.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1>{escape(self.title)}</h1>
<ul class="findings">{findings}</ul>
<nav>{links}</nav>
{sections}
</main>
</body>
</html>
"""

    def markdown(self) -> str:
        """Findings, tables and paragraphs. Of a chart or photo, only its title."""
        lines = [f"# {self.title}", "", *(f"- {finding}" for finding in self.findings)]
        for section in self.sections:
            lines += ["", f"## {section.title}", ""]
            for block in section.blocks:
                if isinstance(block, Table):
                    lines.append(block.markdown())
                elif isinstance(block, Chart | Photo):
                    lines.append(f"- {block.title}")
                else:
                    lines += [block, ""]
        return "\n".join(lines).rstrip() + "\n"


def _section_html(section: Section, anchor: str) -> str:
    blocks = "\n".join(_block_html(block) for block in section.blocks)
    return f'<section id="{anchor}">\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>'


def _block_html(block: Block) -> str:
    if isinstance(block, Table):
        return block.html()
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    caption = f'<p class="note">{escape(block.caption)}</p>' if block.caption else ""
    shown = _image(block) if isinstance(block, Photo) else themed(block.svg)
    return f"<figure><figcaption>{escape(block.title)}</figcaption>{shown}{caption}</figure>"


def _image(photo: Photo) -> str:
    try:
        data = b64encode(photo.path.read_bytes()).decode()
    except OSError as error:
        raise InvalidInput(f"the picture {photo.path} cannot be read: {error.strerror}") from error
    kind = MEDIA_TYPES[photo.path.suffix.lower()]
    return f'<img src="data:{kind};base64,{data}" alt="{escape(photo.title)}">'
