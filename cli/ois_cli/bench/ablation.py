"""`ois bench ablation`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ois_cli.files import check_output, write_files
from ois_cli.output import print_json, say

_RESULT_FORMATS = {".json": "JSON"}


def register(app: typer.Typer) -> None:
    app.command("ablation")(ablation)


def ablation(
    checkpoint: Annotated[
        Path, typer.Argument(help="Its encoder and depth head are used, frozen.")
    ] = Path("models/ois-tiny.safetensors"),
    recipe: Annotated[
        str, typer.Option(help="A shipped recipe or a TOML file; its seed is replaced.")
    ] = "ablation",
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Repeat it. Default: all. The default network is always among them."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    objects: Annotated[int, typer.Option(min=1, help="Validation objects to click on.")] = 60,
    clicks: Annotated[int, typer.Option(min=5, max=24, help="Robot clicks an object.")] = 10,
    longest: Annotated[
        int, typer.Option(min=14, help="Network pixels of the longest side when clicking.")
    ] = 224,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: PyTorch's choice.")] = 0,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at once; they share the cores, so set --threads too.")
    ] = 1,
    work: Annotated[
        Path, typer.Option(help="Folder of the runs; the same command goes on from there.")
    ] = Path(".cache/ablation"),
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The result; a table (.md) appears beside it.")
    ] = Path("benchmarks/results/ablation-tiny-scenes.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train variants of a network alike and compare them (the paper's Tables 4 and 5).

    Procedural scenes, the same ones for every variant of a seed. Each run takes minutes.
    """
    check_output(output, _RESULT_FORMATS)
    import json

    from ois_benchmarks.ablation.result import markdown, result
    from ois_benchmarks.ablation.run import Plan, pick, run
    from ois_network.training.config import load_recipe
    from ois_network.training.memory import keep_freed_memory

    plan = Plan(
        trunk=checkpoint,
        folder=work,
        recipe=load_recipe(recipe),
        seeds=tuple(range(seeds)),
        variants=pick(variant or []),
        objects=objects,
        clicks=clicks,
        longest=longest,
        threads=threads,
    )
    keep_freed_memory()
    document = result(plan, run(plan, say, jobs))
    table = markdown(document)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    write_files({output: text.encode(), output.with_suffix(".md"): table.encode()})
    if as_json:
        print_json(document)
    else:
        print(table, end="")
    say(f"written to {output}")
