"""A report as one HTML file that needs nothing else, and as Markdown."""

from __future__ import annotations

from html import escape
from importlib import resources

from ois_benchmarks.report.parts import Picture, Report, Section
from ois_benchmarks.table import Table


def html(report: Report) -> str:
    """No script, no font and no picture from elsewhere; light, dark and printed."""
    style = (
        resources.files("ois_benchmarks.report").joinpath("report.css").read_text(encoding="utf-8")
    )
    findings = "".join(f"<li>{escape(finding)}</li>" for finding in report.findings)
    links = " · ".join(
        f'<a href="#part-{number}">{escape(section.title)}</a>'
        for number, section in enumerate(report.sections)
    )
    sections = "\n".join(
        _section(section, f"part-{number}") for number, section in enumerate(report.sections)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(report.title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{escape(report.title)}</h1>
<ul class="findings">{findings}</ul>
<nav>{links}</nav>
{sections}
</main>
</body>
</html>
"""


def markdown(report: Report) -> str:
    """Tables and findings; pictures are named by what they show."""
    lines = [f"# {report.title}", "", *(f"- {finding}" for finding in report.findings)]
    for section in report.sections:
        lines += ["", f"## {section.title}", ""]
        for block in section.blocks:
            if isinstance(block, Table):
                lines.append(block.markdown())
            elif isinstance(block, Picture):
                lines.append(f"- {block.title}")
            else:
                lines += [block, ""]
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section, name: str) -> str:
    blocks = "\n".join(_block(block) for block in section.blocks)
    return f'<section id="{name}">\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Picture | Table | str) -> str:
    if isinstance(block, Table):
        return block.html()
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    caption = f'<p class="note">{escape(block.caption)}</p>' if block.caption else ""
    return (
        f'<figure class="picture"><figcaption>{escape(block.title)}</figcaption>'
        f"{block.svg}{caption}</figure>"
    )
