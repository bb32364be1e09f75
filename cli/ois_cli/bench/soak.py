"""`ois bench soak`: whether a server stays the same through hours of sessions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ois_cli.bench.options import RESULT_FORMATS, RESULTS, check_place, print_result
from ois_cli.options import AsJson, Engines
from ois_cli.output import say, warn
from ois_client.contract.errors import InvalidInput, OISError

_HOURS, _CLICKS = 2.0, 100_000
_CLICKS_PER_IMAGE = 20


def register(parent: typer.Typer) -> None:
    parent.command("soak")(soak)


def soak(
    engines: Engines = None,
    hours: Annotated[
        float | None,
        typer.Option(help="In which sessions arrive. Default: 2.", show_default=False),
    ] = None,
    clicks: Annotated[
        int | None,
        typer.Option(help="Of all sessions together. Default: 100,000.", show_default=False),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Clicks per second, instead of --hours or --clicks: the third follows from two.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(help="Different images. Default: one per 20 clicks.", show_default=False),
    ] = None,
    sessions: Annotated[
        int,
        typer.Option(help="At once, at most. On a machine that is too slow, further ones wait."),
    ] = 100,
    restarts: Annotated[
        int,
        typer.Option(
            help="Of the server: in turns stopped and started, its process killed, its model's "
            "process killed."
        ),
    ] = 5,
    think: Annotated[
        float, typer.Option(help="Median seconds from a mask to the next click (lognormal).")
    ] = 1.5,
    longest: Annotated[
        int | None,
        typer.Option(
            help="Longest side of the network's images; smaller needs less of the machine.",
            show_default=False,
        ),
    ] = None,
    cache_mib: Annotated[
        float, typer.Option(help="Memory of the server's store of features. Smaller evicts more.")
    ] = 64.0,
    every: Annotated[float, typer.Option(help="Seconds between two measurements.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Seed of sessions, images and clicks.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The chart is written beside it, as .svg. Default: "
            "benchmarks/results/soak-<engines>.json.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run in the output.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let sessions come and go for hours, and watch what the server holds.

    Starts a server on this machine and restarts it now and then. Sessions arrive at random, open
    an image, click on it and leave, over gRPC and HTTP. Every mask is compared with the one that
    the same engines give in process. Memory, file descriptors, threads, /dev/shm and latencies are
    written as they are measured. Fails if a click was lost or a mask was wrong.

    Example: [b]ois bench soak --hours 0.5 --rate 5[/b]
    """
    from ois_benchmarks.load.pacing import ThinkTime
    from ois_benchmarks.results import read_json, write_result
    from ois_benchmarks.soak.chart import soak_svg
    from ois_benchmarks.soak.plan import SoakPlan
    from ois_benchmarks.soak.result import defects, table
    from ois_benchmarks.soak.run import SoakRun
    from ois_cli.serve import model_repository
    from ois_client.contract.files import write_files
    from ois_runtime.engines.local import default_engine_folder
    from ois_runtime.engines.manifest import Manifest

    chosen = engines or default_engine_folder()
    place = output or RESULTS / f"soak-{Manifest.load(chosen).name}.json"
    check_place(place, RESULT_FORMATS, default=output is None)
    hours, clicks = _amount(hours, clicks, rate)
    plan = SoakPlan(
        hours=hours,
        clicks=clicks,
        images=images or max(1, clicks // _CLICKS_PER_IMAGE),
        sessions=sessions,
        restarts=restarts,
        every_s=every,
        think=ThinkTime(median_s=think),
        longest=longest,
        cache_bytes=round(cache_mib * 2**20),
        seed=seed,
    )

    def save(document: Mapping[str, Any]) -> None:
        write_result(place, document)

    with model_repository(chosen) as repository:
        run = SoakRun(chosen, plan, repository)
        if resume and place.exists():
            run.resume_from(read_json(place))
        say(f"{clicks} clicks in {hours:g} hours: {clicks / hours / 3600:.2f} per second")
        try:
            run.run(save, say)
        except (KeyboardInterrupt, OISError):
            if run.document["windows"]:
                say(f"the run so far is in {place}; use --resume to continue")
            raise
    write_files({place.with_suffix(".svg"): soak_svg(run.document).encode()})
    print_result(run.document, table(run.document), place, as_json=as_json)
    say(f"chart: {place.with_suffix('.svg')}")
    if found := {name: count for name, count in defects(run.document).items() if count}:
        warn("this is a defect: " + ", ".join(f"{count} {name}" for name, count in found.items()))
        raise typer.Exit(1)


def _amount(hours: float | None, clicks: int | None, rate: float | None) -> tuple[float, int]:
    """Hours and clicks. Raises `InvalidInput` for all three, or a rate that is not above 0."""
    if rate is None:
        return hours or _HOURS, clicks or _CLICKS
    if hours is not None and clicks is not None:
        raise InvalidInput("got --hours, --clicks and --rate; expected two of them at most")
    if not 0 < rate < float("inf"):
        raise InvalidInput(f"got --rate {rate:g}; expected clicks per second above 0")
    if hours is not None:
        return hours, max(1, round(3600 * hours * rate))
    clicks = clicks or _CLICKS
    return clicks / rate / 3600, clicks
