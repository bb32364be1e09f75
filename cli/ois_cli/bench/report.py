"""`ois bench report`: all results on one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ois_cli.bench.options import RESULTS
from ois_cli.files import check_distinct, check_output
from ois_cli.options import AsJson
from ois_cli.output import print_json, progress, say, warn
from ois_client.contract.errors import InvalidInput
from ois_client.contract.files import write_files

if TYPE_CHECKING:
    from ois_benchmarks.report.inputs import Inputs
    from ois_benchmarks.roofline import Ceilings


def register(parent: typer.Typer) -> None:
    parent.command("report")(report)


def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="JSON results of `ois bench`, or folders with them. Default: benchmarks/results.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML page.")] = Path(
        "report.html"
    ),
    markdown: Annotated[
        Path | None,
        typer.Option(help="Also write the tables here, as Markdown.", show_default=False),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of more published quality results. The OIS paper's are in the report.",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            help="Measure the peak arithmetic and memory rates of this machine for the roofline, "
            "if results were measured on it and hold no ceilings. Written beside the page."
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Make one page of all results: tables, charts, and the paper's Tables 1 to 5 beside them.

    The page is one HTML file without scripts. It shows latencies with intervals, 256 clicks, the
    roofline, IoU by click, load, stages and definitions. Contestants that failed are listed with
    the reason. Example: [b]ois bench report --markdown report.md[/b]
    """
    from ois_benchmarks.quality.table import read_published
    from ois_benchmarks.report.build import build
    from ois_benchmarks.report.inputs import read_inputs

    check_output(output, {".html": "HTML"})
    if markdown is not None:
        check_output(markdown, {".md": "Markdown"})
    given = results or [RESULTS]
    for path in given:
        if not path.exists():
            raise InvalidInput(
                f"the result {path} does not exist; expected a JSON file or a folder"
            )
    check_distinct([place for place in (output, markdown) if place], given)
    rows = read_published(published) if published else []
    inputs = read_inputs(given)
    for text in inputs.skipped:
        warn(f"left out {text}")
    contents: dict[Path, bytes] = {}
    if measure:
        ceilings = _measured_ceilings(inputs)
        if ceilings is not None:
            place = output.with_name(f"{output.stem}-ceilings.json")
            contents[place] = (json.dumps(ceilings.to_dict(), indent=1) + "\n").encode()
    made = build(inputs, rows)
    contents[output] = made.html().encode()
    if markdown is not None:
        contents[markdown] = made.markdown().encode()
    write_files(contents)
    if as_json:
        print_json({"findings": list(made.findings), "files": [str(place) for place in contents]})
    else:
        for finding in made.findings:
            print(finding)
    say(f"written: {', '.join(map(str, contents))}")


def _measured_ceilings(inputs: Inputs) -> Ceilings | None:
    """Measure this machine's ceilings and add them to `inputs`, if a result needs them.

    Returns None if none does, or if other programs disturbed the measurement.
    """
    from ois_benchmarks import machine, roofline
    from ois_benchmarks.report.latency import device

    here = machine.describe()
    lacking = [
        one.result.machine
        for one in inputs.latency
        if one.result.benchmark == "spc"
        and device(one.result) == "cpu"
        and not any(c.holds_for(one.result.machine) and not c.noisy for c in inputs.ceilings)
        and all(one.result.machine.get(key) == here[key] for key in ("cpu", "cores"))
    ]
    if not lacking:
        return None
    say("measuring the peak rates of this machine")
    with progress("measuring arithmetic and memory"):
        found = roofline.measure(lacking[0].get("threads"))
    if found.noisy:
        warn("other programs used the cores, so there is no roofline; repeat on a quiet machine")
        return None
    inputs.ceilings.append(found)
    return found
