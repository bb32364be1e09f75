"""`ois bench batch` and `ois bench batch-cost`: the throughput of batches, and what it costs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ois_cli.bench.options import RESULT_FORMATS, RESULTS, check_place, print_result
from ois_cli.options import AsJson, Engines
from ois_cli.output import say
from ois_client.contract.errors import InvalidInput


def register(parent: typer.Typer) -> None:
    parent.command("batch")(batch)
    parent.command("batch-cost")(batch_cost)


def batch(
    engines: Engines = None,
    images: Annotated[
        str, typer.Option(metavar="FEW,MANY", help="Images of the short and of the long run.")
    ] = "40,160",
    clicks: Annotated[int, typer.Option(help="Clicks per image, on one object.")] = 3,
    workers: Annotated[
        str, typer.Option(metavar="K,...", help="Numbers of Ray's workers, one thread each.")
    ] = "1,2",
    repeats: Annotated[int, typer.Option(help="Runs of each command; the shortest counts.")] = 3,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: benchmarks/results/batch-<engines>.json."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure `ois annotate` and `ois encode` in one process and on workers of Ray.

    Runs each command on few and on many images; the difference is the rate, the rest the start.

    Example: [b]ois bench batch --engines engines/ois-photo-cpu[/b]
    """
    from ois_benchmarks.batch.throughput import BatchPlan, run, table
    from ois_benchmarks.results import write_result
    from ois_runtime.engines.local import default_engine_folder
    from ois_runtime.engines.manifest import Manifest

    few, *rest = _numbers("--images", images)
    if len(rest) != 1:
        raise InvalidInput(f"got --images {images}; expected two numbers, for example 40,160")
    plan = BatchPlan(
        images=(few, rest[0]),
        clicks=clicks,
        workers=tuple(_numbers("--workers", workers)),
        repeats=repeats,
    )
    chosen = (engines or default_engine_folder()).absolute()
    place = output or RESULTS / f"batch-{Manifest.load(chosen).name}.json"
    check_place(place, RESULT_FORMATS, default=output is None)
    import ray  # noqa: F401  without it, the message names the extra before anything is measured

    document = run(chosen, plan, [sys.executable, "-m", "ois_cli.main"], say)
    write_result(place, document)
    print_result(document, table(document), place, as_json=as_json)


def batch_cost(
    result: Annotated[
        Path,
        typer.Argument(
            help="What was measured: JSON of [b]ois bench batch[/b] or [b]ois bench engines[/b].",
            show_default=False,
        ),
    ],
    price_per_hour: Annotated[
        float, typer.Option(help="Price of an hour of one such machine, in your currency.")
    ],
    machines: Annotated[int, typer.Option(min=1, help="Machines that work at once.")] = 1,
    images: Annotated[
        str, typer.Option(metavar="N,...", help="Numbers of images.")
    ] = "1000000,100000000",
    clicks: Annotated[
        int, typer.Option(min=1, help="Clicks per image, for a result of ois bench engines.")
    ] = 3,
    price_per_gb_month: Annotated[
        float, typer.Option(help="Price of a GB of stored features for a month.")
    ] = 0.0,
    months: Annotated[float, typer.Option(help="Months for which features are stored.")] = 1.0,
    only: Annotated[
        str, typer.Option(metavar="TEXT", help="Only rows whose name contains this.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Estimate the time and the cost of many images from a measured rate.

    machine hours = images / (3600 x images per second); cost = machine hours x price, and for
    features also their storage. docs/batch.md says what the formula leaves out.

    Example: [b]ois bench batch-cost benchmarks/results/engines-vitb-cpu.json --price-per-hour
    0.10[/b]
    """
    from ois_benchmarks.batch.cost import Prices, document_of, table
    from ois_benchmarks.results import read_json

    prices = Prices(machine_hour=price_per_hour, gb_month=price_per_gb_month, months=months)
    counts = _numbers("--images", images)
    document = document_of(read_json(result), result.name, clicks, counts, machines, prices)
    document["rows"] = [row for row in document["rows"] if only in row["name"]]
    print_result(document, table(document), None, as_json=as_json)


def _numbers(option: str, text: str) -> list[int]:
    """Whole numbers above 0, separated by commas. Raises `InvalidInput` for anything else."""
    words = text.replace("_", "").split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise InvalidInput(f"got {option} {text}; expected whole numbers, for example 1,2")
    return [int(word) for word in words]
