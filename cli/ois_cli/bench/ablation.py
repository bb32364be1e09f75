"""`ois bench ablation` and `switched-off`: what each part of the network contributes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ois_cli.bench.options import RESULT_FORMATS, RESULTS, check_place, print_result
from ois_cli.options import AsJson
from ois_cli.output import say


def _checkpoint(given: Path | None, command: str) -> Path:
    """The checkpoint that a user names; without one ois-tiny, which only a checkout has.

    Raises `CheckpointError` if there is neither.
    """
    from ois_client.contract.errors import CheckpointError
    from ois_runtime.shipped import named_checkpoint

    if given is not None:
        return named_checkpoint(given)
    tiny = Path(__file__).resolve().parents[3] / "models" / "ois-tiny.safetensors"
    if not tiny.is_file():
        raise CheckpointError(
            "got no checkpoint, and ois-tiny, the default, comes with a checkout of the repository "
            f"only. Name one: ois bench {command} ois-photo"
        )
    return tiny


def register(parent: typer.Typer) -> None:
    parent.command()(ablation)
    parent.command("switched-off")(switched_off)


def ablation(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="Checkpoint whose encoder and depth head are used, frozen; ois-photo is the "
            "shipped one. Default: ois-tiny, in a checkout.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Shipped recipe or TOML file. Its seed is replaced.")
    ] = "ablation",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of each run. Default: as in the recipe."),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Variant to train; may be repeated. Default: all. The default network is always "
            "included."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    start: Annotated[
        Literal["untrained", "trained"],
        typer.Option(
            help="Initial weights of prompts, fusion and mask head: new ones, or the "
            "checkpoint's, as far as the variant has them (a short retraining without a part)."
        ),
    ] = "untrained",
    train_data: Annotated[
        list[str] | None,
        typer.Option(
            help="What to train on, as --data of [b]ois train[/b]. Default: scenes.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="What to click on: scenes\\[:COUNT] (validation scenes), lookalikes\\[:COUNT] "
            "(scenes where depth decides), distinct\\[:COUNT] (where it does not), photos, "
            "davis:ROOT, hqseg44k:ROOT, coco:FILE\\[,IMAGES] or folders:IMAGES,MASKS."
        ),
    ] = "scenes",
    objects: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="At most this many objects. Default: 60 scenes, or all of another data set.",
            show_default=False,
        ),
    ] = None,
    clicks: Annotated[int, typer.Option(min=5, max=24, help="Robot clicks per object.")] = 20,
    longest: Annotated[
        int, typer.Option(min=14, help="Longest side in network pixels when clicking.")
    ] = 224,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for PyTorch's default.")] = 0,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at once. They share the cores, so set --threads too.")
    ] = 1,
    work: Annotated[
        Path, typer.Option(help="Folder of the runs. The same command resumes there.")
    ] = Path(".cache/ablation"),
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Result as JSON; a table (.md) is written beside it."),
    ] = RESULTS / "ablation-tiny-scenes.json",
    as_json: AsJson = False,
) -> None:
    """Train variants of a network in the same way and compare them (paper, Tables 4 and 5).

    Trains on procedural scenes or --train-data, the same for all variants with one seed. Each run
    takes minutes. --data says what they are evaluated on; the same command with other --data trains
    nothing again. Examples: [b]ois bench ablation --variant
    no-order --seeds 1[/b] and [b]ois bench ablation models/ois-photo.safetensors --start trained
    --train-data photo:FOLDER --recipe photo-ablation --data photos --longest 704[/b]
    """
    check_place(output, RESULT_FORMATS, default=output.parent == RESULTS)
    from ois_benchmarks.ablation.evaluation import SCENES, evaluation
    from ois_benchmarks.ablation.result import result, table_of
    from ois_benchmarks.ablation.run import AblationPlan, Start, pick, run, with_steps
    from ois_benchmarks.results import write_result
    from ois_network.training.config import load_recipe
    from ois_network.training.processes import keep_freed_memory

    plan = AblationPlan(
        trunk=_checkpoint(checkpoint, "ablation"),
        folder=work,
        recipe=with_steps(load_recipe(recipe), steps),
        seeds=tuple(range(seeds)),
        start=Start(start),
        train_data=tuple(train_data or [SCENES]),
        variants=pick(variant or []),
        data=data,
        objects=objects,
        clicks=clicks,
        longest=longest,
        threads=threads,
    )
    evaluation(data, objects)  # wrong data is an error now, not after the first training
    keep_freed_memory()
    document = result(plan, run(plan, say, jobs))
    table = table_of(document).markdown()
    write_result(output, document, table)
    print_result(document, table, output, as_json=as_json)


def switched_off(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="OIS checkpoint, trained; ois-photo is the shipped one. Default: ois-tiny, in a "
            "checkout.",
            show_default=False,
        ),
    ] = None,
    objects: Annotated[
        int | None,
        typer.Option(help="At most this many objects. Default: 100 scenes, or all photographs."),
    ] = None,
    clicks: Annotated[int, typer.Option(help="Robot clicks per object.")] = 10,
    data: Annotated[
        str,
        typer.Option(
            help="scenes, lookalikes or distinct (validation scenes), photos, davis:ROOT or "
            "another data set of `ois bench quality`."
        ),
    ] = "scenes",
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Result as JSON; a table (.md) is written beside it."),
    ] = RESULTS / "switched-off-ois-tiny.json",
    as_json: AsJson = False,
) -> None:
    """Evaluate a trained network with one part switched off at a time, without training.

    If switching a part off changes nothing, the network does not use it. Runs at the network's
    own size.
    """
    check_place(output, RESULT_FORMATS, default=output.parent == RESULTS)
    from ois_benchmarks.ablation.result import table_of
    from ois_benchmarks.ablation.switched_off import run
    from ois_benchmarks.results import write_result
    from ois_network.training.processes import keep_freed_memory

    keep_freed_memory()
    if objects is None and data in ("scenes", "lookalikes", "distinct"):
        objects = 100
    trained = _checkpoint(checkpoint, "switched-off")
    document = run(trained, objects=objects, clicks=clicks, say=say, data=data)
    table = table_of(document).markdown()
    write_result(output, document, table)
    print_result(document, table, output, as_json=as_json)
