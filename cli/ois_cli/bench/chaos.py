"""`ois bench chaos`: whether clicks survive what can happen to a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ois_cli.bench.options import RESULT_FORMATS, RESULTS, check_place, print_result
from ois_cli.options import AsJson, Engines
from ois_cli.output import say, warn
from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from ois_benchmarks.chaos.faults import Fault


def register(parent: typer.Typer) -> None:
    parent.command("chaos")(chaos)


def chaos(
    engines: Engines = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="FAULT", help="May be repeated. Default: every kind of fault."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Every fault comes once per round; five of 17 kill a process.")
    ] = 1,
    users: Annotated[int, typer.Option(help="Half use gRPC, half HTTP.")] = 4,
    hold: Annotated[
        float, typer.Option(help="Longest seconds of a fault that can be undone.")
    ] = 2.0,
    pause: Annotated[
        float, typer.Option(help="Longest seconds between a recovery and the next fault.")
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(help="Seed of the faults' order and moments, and of the clicks.")
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: benchmarks/results/chaos-<engines>.json."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Break a server again and again while people click, and count what they lose.

    Starts a server on this machine. Kills and stops its processes, drops, delays and cuts its
    connections, sends bytes twice, and takes its file descriptors, memory, shared memory and disk
    away. The last two need root. Fails if a click was lost, a mask was wrong or an answer came
    after its deadline.

    Faults: kill-server, kill-front, kill-segment, kill-model, stop-server, stop-front,
    stop-segment, drop, delay, truncate, duplicate, slow, half-open, descriptors, memory, full-shm,
    full-disk. Example: [b]ois bench chaos --rounds 40[/b] kills 200 times.
    """
    from ois_runtime.engines.local import default_engine_folder
    from ois_runtime.engines.manifest import Manifest

    chosen = engines or default_engine_folder()
    place = output or RESULTS / f"chaos-{Manifest.load(chosen).name}.json"
    check_place(place, RESULT_FORMATS, default=output is None)
    from ois_benchmarks.chaos.private import mount_private_folders

    faults = _chosen(only)
    skipped: dict[str, str] = {}
    if any(fault.needs_root for fault in faults) and (why := mount_private_folders()):
        skipped = {str(fault): why for fault in faults if fault.needs_root}
        faults = tuple(fault for fault in faults if fault not in skipped)
        for name in skipped:
            warn(f"{name} is skipped: {why}")

    from ois_benchmarks.chaos.result import defects, table
    from ois_benchmarks.chaos.run import ChaosPlan, ChaosRun
    from ois_benchmarks.load.pictures import read_pictures
    from ois_benchmarks.results import write_result
    from ois_cli.serve import model_repository

    plan = ChaosPlan(
        faults=faults, rounds=rounds, users=users, hold_s=hold, pause_s=pause, seed=seed
    )

    def save(document: Mapping[str, Any]) -> None:
        write_result(place, document)

    def began(number: int, fault: Fault) -> None:
        say(f"{number + 1} of {len(plan.order())}: {fault}")

    with model_repository(chosen) as repository:
        run = ChaosRun(chosen, read_pictures(), plan, skipped, repository)
        run.run(began, save)
    print_result(run.document, table(run.document), place, as_json=as_json)
    if found := {name: count for name, count in defects(run.document).items() if count}:
        warn("this is a defect: " + ", ".join(f"{count} {name}" for name, count in found.items()))
        raise typer.Exit(1)


def _chosen(names: list[str] | None) -> tuple[Fault, ...]:
    from ois_benchmarks.chaos.faults import Fault

    unknown = sorted(set(names or ()) - set(Fault))
    if unknown:
        raise InvalidInput(f"got the fault {unknown[0]!r}; expected one of {', '.join(Fault)}")
    return tuple(fault for fault in Fault if names is None or fault in names)
