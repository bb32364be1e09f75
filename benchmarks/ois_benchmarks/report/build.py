"""`ois bench report`: all results on one page.

    files ─► Inputs ─► Report (findings, sections of charts, tables, pictures) ─► HTML, Markdown

No result is dropped. Rows that failed give their reason, and the title of a chart names the
peers that are faster as well as those that are slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ois_benchmarks.latency.averages import MEANINGS
from ois_benchmarks.latency.result import Benchmark, Definition
from ois_benchmarks.report import gpu
from ois_benchmarks.report.inputs import Inputs, LatencyRun, Source, describe_machine
from ois_benchmarks.report.latency import engines_section, is_ours, latency_section, sizes
from ois_benchmarks.report.load import load_section
from ois_benchmarks.report.page import Block, Chart, Photo, Report, Section
from ois_benchmarks.report.paper import ablation_tables, quality_tables
from ois_benchmarks.report.quality import quality_section
from ois_benchmarks.report.roofline import roofline_section
from ois_benchmarks.report.stages import stage_section
from ois_benchmarks.report.table3 import machine_key, table_3
from ois_benchmarks.table import Column, Table, TableRow

TITLE = "OIS Deploy: latency, load and quality"

_LOAD_TERMS = (
    ("no pause, human pace", "users who click again once the mask is there, at once or after a "
     "lognormal pause: closed loops"),
    ("arriving", "clicks at Poisson times, whether or not the server keeps up; latency counts from "
     "when a click was due, so the wait behind slow clicks is included (no coordinated omission)"),
    ("sustained", "no click failed, at least 95 % were answered as fast as they arrived, and p95 "
     "stayed within the limit"),
    ("lost", "a click that was due but neither answered nor failed, or that is missing from its "
     "session's history"),
)  # fmt: skip

#: What a figure shows, by the first word of its name.
_FIGURES = {
    "attention": "As Figures 3, 6 and 7 of the paper: one row per click, its order map, and the "
    "weights of order-aware attention over the image before and after the order map.",
    "compare": "As Figures 4, 5, 8 and 9 of the paper: one click, the true mask, and each method.",
    "rounds": "As Figures 10 to 13 of the paper: the robot's rounds, one row per method.",
}


def build(inputs: Inputs, published: Sequence[Mapping[str, Any]] = ()) -> Report:
    """Make the report. Sections without content are left out.

    Latencies begin with the runs of our engines, the longest first: findings are about these.
    published: rows of papers' results, see `quality.table.read_published`.
    """
    latency = sorted(
        inputs.latency,
        key=lambda one: (not any(map(is_ours, one.result.rows)), -len(one.result.rows)),
    )
    inputs = replace(inputs, latency=latency)
    sections = [
        section
        for section in (
            quality_tables(inputs.quality, published),
            _table_3_section(inputs),
            ablation_tables(inputs.ablations),
            latency_section("Seconds per click", inputs, Benchmark.SPC),
            latency_section("Segment anything: 256 clicks on one image", inputs, Benchmark.SAT),
            engines_section(inputs.engines),
            _tables_section("The engine alone on a GPU", inputs.gpu_engine, gpu.engine_tables),
            _tables_section("Masked attention on a GPU", inputs.kernels, gpu.kernel_tables),
            roofline_section(inputs),
            quality_section(inputs.quality),
            load_section(inputs.load),
            stage_section(inputs),
            _figures_section(inputs),
            _definitions_section(inputs),
            _machine_section(inputs),
        )
        if section.blocks
    ]
    return Report(TITLE, _findings(sections), sections)


def _findings(sections: Sequence[Section]) -> list[str]:
    """The title of the first chart of each section."""
    found = []
    for section in sections:
        charts = [block for block in section.blocks if isinstance(block, Chart)]
        # A click matters more than the encode, which comes before it.
        charts.sort(key=lambda one: one.title.startswith("An encode"))
        found += [one.title for one in charts[:1]]
    return found


def _table_3_section(inputs: Inputs) -> Section:
    """One table per machine and image size; the paper's alone if nothing was measured."""
    machines: dict[tuple[Any, ...], list[LatencyRun]] = {}
    for one in inputs.latency:
        machines.setdefault(machine_key(one.result), []).append(one)
    blocks: list[Block] = []
    for key, results in machines.items():
        if len(machines) > 1:
            blocks.append(f"{key[0]}, {key[1]} cores, {key[2]} threads, {key[3]}:")
        image_sizes = dict.fromkeys(size for one in results for size in sizes(one.result))
        blocks += [table_3(results, size) for size in image_sizes]
    return Section("The paper's Table 3", blocks or [table_3([], None)])


def _tables_section(
    title: str,
    sources: Sequence[Source],
    tables: Callable[[Mapping[str, Any]], Iterable[Table]],
) -> Section:
    blocks: list[Block] = []
    for source in sources:
        blocks.append(f"{source.name}: {describe_machine(source.machine)}.")
        blocks += tables(source.document)
    return Section(title, blocks)


def _figures_section(inputs: Inputs) -> Section:
    """The pictures of `ois show`. Their names are the titles, and the first word is the kind."""
    blocks: list[Block] = []
    for path in inputs.figures:
        name = path.stem.removeprefix("figure-")
        caption = _FIGURES.get(name.partition("-")[0], "")
        blocks.append(Photo(path, name.replace("-", " "), caption))
    return Section("Figures", blocks)


def _definitions_section(inputs: Inputs) -> Section:
    used = {
        definition
        for one in inputs.latency
        for row in one.result.rows
        for definition in row.figures
    }
    terms = [(each.value, each.meaning) for each in Definition if each in used]
    if Definition.CLICK in used or Definition.SESSION in used:
        terms += MEANINGS
    if inputs.load:
        terms += _LOAD_TERMS
    columns = [Column("term", number=False), Column("meaning", number=False)]
    rows = [TableRow([term, meaning], strong=True) for term, meaning in terms]
    blocks = [Table("Definitions, never mixed", columns, rows)] if terms else []
    return Section("What the terms mean", blocks)


def _machine_section(inputs: Inputs) -> Section:
    columns = [
        Column(name, number=False)
        for name in ("file", "machine", "date", "commit", "versions", "allocator")
    ]
    rows = []
    for source in inputs.sources:
        machine = source.machine
        versions = machine.get("versions", {})
        allocator = {k: v for k, v in (machine.get("allocator") or {}).items() if v is not None}
        rows.append(
            TableRow(
                [
                    source.name,
                    describe_machine(machine) if machine else str(source.document.get("cpu", "")),
                    str(machine.get("date", source.document.get("date", "")))[:10],
                    str(machine.get("commit") or "")[:12],
                    ", ".join(f"{name} {version}" for name, version in versions.items()),
                    ", ".join(f"{name}={value}" for name, value in allocator.items()) or "default",
                ]
            )
        )
    return Section("Machines", [Table("Files", columns, rows, inputs.skipped)])
