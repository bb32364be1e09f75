"""`ois bench report`: all results on one page, and as Markdown.

    files ─► Inputs ─► Report (findings, sections of pictures and tables) ─► HTML, Markdown

Nothing is dropped because it looks bad: rows that failed stand with their reason, and the
headline of a picture names the peers that are faster as well as the slower ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ois_benchmarks.latency.result import Definition
from ois_benchmarks.load.result import describe_saturation
from ois_benchmarks.quality.curves import COLOURS, iou_curves
from ois_benchmarks.quality.result import curves_of, model_name
from ois_benchmarks.report import gpu_engine, kernels, latency, roofline
from ois_benchmarks.report import load as report_load
from ois_benchmarks.report.inputs import Inputs, Latency, Load, Source
from ois_benchmarks.report.parts import Picture, Report, Section
from ois_benchmarks.report.table3 import machine_key, table_3
from ois_benchmarks.roofline import Ceilings
from ois_benchmarks.statistics import STAGES
from ois_benchmarks.table import Column, Row, Table

TITLE = "OIS Deploy: latency, load and quality"

_LOAD_TERMS = (
    ("no pause, human pace", "users who click again when the mask is there, at once or after a "
     "lognormal pause: closed loops"),
    ("arriving", "clicks at Poisson times, whether or not the server keeps up; a click's time "
     "counts from when it was due, so waiting behind slow ones counts (no coordinated omission)"),
    ("sustained", "no click failed, at least 95 % were answered as fast as they came, and p95 "
     "stayed within the limit"),
    ("lost", "a click that was due and neither answered nor failed, or that is missing from its "
     "session's history"),
)  # fmt: skip


_ROOFLINE = (
    "The percentage is how much of the roof above it each reaches: of the flat one for its "
    "arithmetic, or of the sloping one, whichever is lower. Beyond 100 %, the engine really does "
    "less than was counted."
)


def build(inputs: Inputs, published: Sequence[Mapping[str, Any]] = ()) -> Report:
    """published: rows of papers' results, see `quality_report.read_published`."""
    sections = [
        section
        for section in (
            _table_section(inputs, published),
            _latency_section("Seconds per click", inputs, "spc"),
            _latency_section("Segment anything: 256 clicks on one picture", inputs, "sat"),
            _engines_section(inputs.engines),
            _tables_section("The engine alone on a GPU", inputs.gpu_engine, gpu_engine.tables),
            _tables_section("Masked attention on a GPU", inputs.kernels, kernels.tables),
            _roofline_section(inputs),
            _quality_section(inputs.quality),
            _load_section(inputs.load),
            _stage_section(inputs),
            _definitions_section(inputs),
            _machine_section(inputs),
        )
        if section.blocks
    ]
    return Report(TITLE, _findings(sections), sections)


def _findings(sections: Sequence[Section]) -> list[str]:
    """The first picture of each section says what a reader in a hurry wants to know."""
    found = []
    for section in sections:
        pictures = [block for block in section.blocks if isinstance(block, Picture)]
        # A click matters more than the encode, which stands before it.
        pictures.sort(key=lambda one: one.title.startswith("An encode"))
        found += [one.title for one in pictures[:1]]
    return found


def _table_section(inputs: Inputs, published: Sequence[Mapping[str, Any]]) -> Section:
    machines: dict[tuple[Any, ...], list[Latency]] = {}
    for one in inputs.latency:
        machines.setdefault(machine_key(one.result), []).append(one)
    quality = [source.document for source in inputs.quality]
    blocks: list[Picture | Table | str] = []
    for key, results in machines.items():
        if len(machines) > 1:
            blocks.append(f"{key[0]}, {key[1]} cores, {key[2]} threads, {key[3]}:")
        sizes = dict.fromkeys(s for one in results for s in latency.sizes(one.result))
        for number, size in enumerate(sizes):
            # Quality does not depend on the size of the timed picture: said once.
            extra = (quality, published) if not blocks or not number else ((), ())
            blocks.append(table_3(results, size, *extra))
    return Section("The paper's Table 3", blocks)


def _latency_section(title: str, inputs: Inputs, benchmark: str) -> Section:
    blocks: list[Picture | Table | str] = []
    chosen = [one for one in inputs.latency if one.result.benchmark == benchmark]
    for one in chosen:
        blocks.append(f"{one.source.name}: {_where(one.result.machine)}.")
        blocks += latency.pictures(one.result)
    return Section(title, blocks)


def _engines_section(sources: Sequence[Source]) -> Section:
    blocks: list[Picture | Table | str] = []
    for source in sources:
        blocks.append(
            f"{source.name}: one network in every engine, {source.document['weights']} weights. "
            f"{_where(source.machine)}."
        )
        blocks += latency.engine_pictures(source.document)
    return Section("One network in every engine", blocks)


def _tables_section(
    title: str,
    sources: Sequence[Source],
    tables: Callable[[Mapping[str, Any]], Iterable[Table]],
) -> Section:
    blocks: list[Picture | Table | str] = []
    for source in sources:
        blocks.append(f"{source.name}: {_where(source.machine)}.")
        blocks += tables(source.document)
    return Section(title, blocks)


def _roofline_section(inputs: Inputs) -> Section:
    blocks: list[Picture | Table | str] = []
    for one in inputs.latency:
        if one.result.benchmark != "spc":
            continue
        device = latency.device(one.result)
        ceilings = _ceilings_for(inputs.ceilings, one.result.machine, device)
        for size in latency.sizes(one.result):
            work = latency.work(one.result, size)
            if not work:
                continue
            if ceilings is None:
                advice = (
                    "were not measured while it was quiet. Make the report there."
                    if device == "cpu"
                    else f"are not among the files. On that {device} device: python -m "
                    "ois_benchmarks.gpu.ceilings --output gpu-ceilings.json"
                )
                blocks.append(
                    f"{one.source.name} has no roofline: the ceilings of its machine "
                    f"({_where(one.result.machine)}) {advice}"
                )
                break
            for what in ("click", "encode"):
                chosen = [each for each in work if each.what == what]
                if chosen:
                    title = roofline.headline(chosen, ceilings, f"on {size[0]}x{size[1]}")
                    drawn = roofline.roofline(chosen, ceilings)
                    blocks.append(Picture(drawn, title, _ROOFLINE))
            blocks.append(roofline.table(work, ceilings))
    return Section("How much of the machine is used", blocks)


def _ceilings_for(
    every: Sequence[Ceilings], machine: Mapping[str, Any], device: str
) -> Ceilings | None:
    """Those that were measured while others computed are too low to mean anything."""
    return next((one for one in every if one.holds_for(machine, device) and not one.noisy), None)


def _quality_section(sources: Sequence[Source]) -> Section:
    blocks: list[Picture | Table | str] = []
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for source in sources:
        by_dataset.setdefault(source.document["dataset"]["name"], []).append(dict(source.document))
    for dataset, documents in by_dataset.items():
        series = [one for document in documents for one in curves_of(document)]
        for first in range(0, len(series), len(COLOURS)):
            shown = series[first : first + len(COLOURS)]
            best = max(shown, key=lambda one: one.curve[-1].value)
            clicks = len(best.curve)
            title = (
                f"{dataset}: {best.name} reaches a mean IoU of {best.curve[0].value:.3f} after "
                f"one click and {best.curve[-1].value:.3f} after {clicks}"
            )
            blocks.append(
                Picture(
                    iou_curves(shown, f"{dataset}: mean IoU per click"),
                    title,
                    "The robot user clicks the deepest wrong pixel; bands are 95 % bootstrap "
                    "intervals over objects.",
                )
            )
        untrained = [d for d in documents if not d["model"]["trained"]]
        blocks += [
            f"{model_name(d['model'])}: the weights are random, its quality says nothing."
            for d in untrained
        ]
    return Section("Clicks against IoU", blocks)


def _load_section(loads: Sequence[Load]) -> Section:
    blocks: list[Picture | Table | str] = []
    for load in loads:
        document = load.source.document
        found, plan = document.get("saturation"), document["plan"]
        name = document["model"]["network"]
        blocks.append(_describe_load(load))
        if found is not None:
            title = f"{name}, {describe_saturation(found)}"
            picture = report_load.arrivals(load.steps, found)
            if picture:
                caption = (
                    "Bands are 95 % intervals. The vertical line is the highest rate sustained."
                )
                blocks.append(Picture(picture, title, caption))
        blocks.append(report_load.steps_table(load.steps, plan["limit_ms"]))
    return Section("Many users at once", blocks)


def _describe_load(load: Load) -> str:
    document, plan = load.source.document, load.source.document["plan"]
    target, think = document["target"], plan["think"]
    sentences = [
        f"{load.source.name}: {document['model']['network']} ({document['model']['engine']}), "
        f"{target['kind']} over {target['protocol']}",
        _where(load.source.machine),
        f"Human pace: {think['distribution']} pauses, median {think['median_s']:g} s, sigma "
        f"{think['sigma']:g}",
        f"Seed {plan['seed']}",
        "" if document["complete"] else "The run was interrupted: steps are missing",
        "Other programs used the machine meanwhile" if document.get("noisy") else "",
    ]
    return ". ".join(filter(None, sentences)) + "."


def _stage_section(inputs: Inputs) -> Section:
    blocks: list[Picture | Table | str] = []
    rows = list(_stage_rows(inputs))
    if rows:
        title = f"Where a click's time goes: {_largest(*rows[0])}"
        caption = (
            "Medians by stage. queue: waiting in the server; decode: the click engine; "
            "postprocess: logits to a mask in the image's size; encode mask: to bytes; rest: "
            "protocol, copies and the client."
        )
        blocks.append(Picture(report_load.stages(rows), title, caption))
    for one in inputs.latency:
        loops = latency.parts(one.result)
        if loops:
            title = f"What a click of the evaluation loop is made of: {_largest(*loops[0])}"
            caption = f"loop: {Definition.LOOP.meaning}."
            blocks.append(Picture(report_load.stages(loops), title, caption))
    return Section("Where the time goes", blocks)


def _largest(name: str, parts: Mapping[str, float]) -> str:
    part = max(parts, key=lambda one: parts[one])
    return f"{parts[part] / sum(parts.values()):.0%} of {name} is {part.replace('_', ' ')}"


def _stage_rows(inputs: Inputs) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Of clicks that did not wait for other users', where a run has such a step."""
    for load in inputs.load:
        timed = [one for one in load.steps if one.stages_ms]
        alone = [one for one in timed if one.pace == "warm"] or timed
        if alone:
            document = load.source.document
            name = f"{document['model']['network']}, {document['target']['protocol']}"
            yield name, alone[0].stages_ms
    for source in inputs.overhead:
        for client, row in source.document["single"].items():
            found = {name: row[f"{name}_ms"] for name in (*STAGES, "rest") if f"{name}_ms" in row}
            yield f"{source.document['network']}, {client}", found


def _definitions_section(inputs: Inputs) -> Section:
    used = {
        definition
        for one in inputs.latency
        for row in one.result.rows
        for definition in row.figures
    }
    terms = [(each.value, each.meaning) for each in Definition if each in used]
    if inputs.load:
        terms += _LOAD_TERMS
    if not terms:
        return Section("What the words mean", [])
    columns = [Column("word", number=False), Column("meaning", number=False)]
    rows = [Row([word, meaning], strong=True) for word, meaning in terms]
    return Section("What the words mean", [Table("Definitions, never mixed", columns, rows)])


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
            Row(
                [
                    source.name,
                    _where(machine) if machine else str(source.document.get("cpu", "")),
                    str(machine.get("date", source.document.get("date", "")))[:10],
                    str(machine.get("commit") or "")[:12],
                    ", ".join(f"{name} {version}" for name, version in versions.items()),
                    ", ".join(f"{name}={value}" for name, value in allocator.items()) or "default",
                ]
            )
        )
    return Section("What it was measured on", [Table("Files", columns, rows, inputs.skipped)])


def _where(machine: Mapping[str, Any]) -> str:
    parts = [
        str(machine.get("gpu", "")),
        str(machine.get("cpu", "a machine that is not described")),
        f"{machine['cores']} cores" if "cores" in machine else "",
        f"{machine['threads']} threads" if "threads" in machine else "",
        f"{machine['memory_gib']} GiB" if "memory_gib" in machine else "",
    ]
    return ", ".join(filter(None, parts))
