"""`ois bench load`: how many users a server can keep up with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ois_cli.bench.options import RESULT_FORMATS, RESULTS, check_place
from ois_cli.files import make_folder
from ois_cli.options import AsJson, Engines
from ois_cli.output import print_json, progress, say, warn
from ois_client.contract.errors import InvalidInput, OISError

if TYPE_CHECKING:
    from ois_benchmarks.load.meter import Meter
    from ois_benchmarks.load.pacing import LoadPlan, Step
    from ois_benchmarks.load.result import StepResult


def register(parent: typer.Typer) -> None:
    parent.command("load")(load)


def load(
    url: Annotated[
        str | None,
        typer.Argument(
            help="Address of a server, or local:ENGINES. Default: start a server on this machine "
            "and stop it afterwards.",
            show_default=False,
        ),
    ] = None,
    engines: Engines = None,
    protocol: Annotated[
        str, typer.Option(help="Protocol to the started server: grpc or http.")
    ] = "grpc",
    token: Annotated[
        str | None, typer.Option(envvar="OIS_TOKEN", help="Token for the server at URL.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Image to click on; may be repeated. Default: the shipped photographs."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PACE",
            help="cold, warm, fast, human or arrivals; may be repeated. Default: all.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Duration of each step.")] = 10.0,
    fast: Annotated[
        str, typer.Option(metavar="K,...", help="Numbers of users without a pause, one step each.")
    ] = "1,8,32",
    human: Annotated[
        str, typer.Option(metavar="K,...", help="Numbers of users at human pace, one step each.")
    ] = "8,32",
    think: Annotated[
        float,
        typer.Option(help="Human pace: median seconds from a mask to the next click (lognormal)."),
    ] = 1.5,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            help="Clicks per second that arrive (Poisson); may be repeated. Default: increase "
            "until the server no longer keeps up."
        ),
    ] = None,
    limit_ms: Annotated[
        float, typer.Option(help="Largest acceptable p95 of a click, in ms.")
    ] = 500.0,
    cold: Annotated[int, typer.Option(help="Number of pictures new to the server.")] = 8,
    clicks: Annotated[int, typer.Option(help="Clicks by each user on one picture.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of pauses, arrivals and click positions.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: benchmarks/results/load-<network>.json."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run in the output.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate many users, and find the click rate that a server can sustain.

    Five paces: cold (pictures that are new to the server), warm (the same pictures again), fast
    (users who click as soon as the mask arrives), human (users who pause to look at it) and
    arrivals (clicks that arrive whether or not the server keeps up, timed from when they were due).
    Example: [b]ois bench load --only arrivals --seconds 30[/b]
    """
    from ois_benchmarks.load.pacing import LoadPlan, Pace, ThinkTime
    from ois_benchmarks.load.pictures import read_pictures

    plan = LoadPlan(
        paces=tuple(pace for pace in Pace if pace in _paces(only)),
        seconds=seconds,
        cold_images=cold,
        fast_users=_counts(fast, "--fast"),
        human_users=_counts(human, "--human"),
        rates=tuple(sorted(set(rate or ()))),
        limit_ms=limit_ms,
        clicks_an_image=clicks,
        think=ThinkTime(median_s=think),
        seed=seed,
    )
    if output is not None:
        check_place(output, RESULT_FORMATS, default=False)
    pictures = read_pictures(image or ())
    with _target(url, engines, protocol, token) as (address, target, options):
        place = output or _default_output(address, options)
        from ois_benchmarks.load.run import LoadRun
        from ois_benchmarks.results import write_result

        run = LoadRun(address, pictures, plan, target, **options)
        if resume and place.exists():
            run.resume_from(_read(place))
            say(f"resuming after {len(run.steps)} steps")
        elif _is_unfinished(place):
            warn(
                f"{place} holds an interrupted run, which is replaced; use --resume to continue it"
            )

        def save(document: Mapping[str, Any]) -> None:
            write_result(place, document)

        try:
            with _observed(plan, run.steps) as observer:
                run.run(observer, save)
        except (KeyboardInterrupt, OISError):
            if run.steps:
                say(f"{len(run.steps)} steps are in {place}; use --resume to continue")
            raise
    _report(run.document, run.steps, plan, as_json=as_json)
    say(f"written to {place}")


@contextmanager
def _target(
    url: str | None, engines: Path | None, protocol: str, token: str | None
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Address, description of the target for the result, and options of the client."""
    if protocol not in ("grpc", "http"):
        raise InvalidInput(f"got the protocol {protocol!r}; expected grpc or http")
    if url is not None:
        if engines is not None:
            raise InvalidInput(
                f"got the address {url!r} and --engines; expected one of them: an address, or "
                "engines to start a server on"
            )
        scheme = url.partition(":")[0]
        kind = "in process" if scheme == "local" else "server"
        # Results are published, so they do not contain the address.
        options = {"token": token} if token and kind == "server" else {}
        yield url, {"kind": kind, "protocol": scheme}, options
        return
    from ois_cli.serve import model_repository
    from ois_runtime.embedded.options import ServerOptions
    from ois_runtime.embedded.server import EmbeddedServer
    from ois_runtime.engines.local import default_engine_folder

    with model_repository(engines or default_engine_folder()) as repository:
        server = EmbeddedServer(repository, ServerOptions())
        with progress("starting the server"):
            server.start()
        try:
            address = server.grpc_url if protocol == "grpc" else server.http_url
            yield address, {"kind": "embedded server", "protocol": protocol}, {}
        finally:
            server.stop()


class _Observer:
    """Prints one line per step. On a terminal, `show` draws the chart instead."""

    def __init__(
        self, plan: LoadPlan, done: list[StepResult], show: Callable[[Any], None] | None
    ) -> None:
        self._plan, self._done, self._show = plan, list(done), show

    def began(self, step: Step) -> None:
        if self._show is None:
            say(step.label)

    def tick(self, step: Step, meter: Meter) -> None:
        if self._show is not None:
            from ois_benchmarks.load.chart import live

            self._show(live(self._done, step, meter, self._plan.limit_ms))

    def ended(self, result: StepResult) -> None:
        self._done.append(result)
        if self._show is None:
            from ois_benchmarks.load.chart import line

            say(f"  {line(result)}")


@contextmanager
def _observed(plan: LoadPlan, done: list[StepResult]) -> Iterator[_Observer]:
    if not sys.stderr.isatty():
        yield _Observer(plan, done, None)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as chart:
        yield _Observer(plan, done, lambda picture: chart.update(picture, refresh=True))


def _report(
    document: Mapping[str, Any], steps: list[StepResult], plan: LoadPlan, *, as_json: bool
) -> None:
    if document["noisy"]:
        warn("other programs used the cores, so this is not a clean measurement")
    if document["lost"]:
        warn(f"{document['lost']} clicks were lost; this is a defect, please report it")
    if as_json:
        print_json(dict(document))
        return
    from rich.console import Console

    from ois_benchmarks.load.chart import table
    from ois_benchmarks.load.result import describe_saturation

    console = Console()
    console.print(table(steps, plan.limit_ms))
    console.print(f"clicks lost: {document['lost']}", highlight=False)
    if document["saturation"]:
        console.print(describe_saturation(document["saturation"]), highlight=False)


def _default_output(address: str, options: dict[str, Any]) -> Path:
    """The default place. Raises what the client raises if nothing answers at the address."""
    from ois_client import Client

    with Client(address, **options) as client:
        network = client.info.network
    make_folder(RESULTS)
    return RESULTS / f"load-{network}.json"


def _read(place: Path) -> dict[str, Any]:
    from ois_benchmarks.results import read_json

    try:
        document = read_json(place)
    except InvalidInput as error:
        raise InvalidInput(
            f"cannot resume from this result: {error}; choose another output"
        ) from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{place} is not a result of `ois bench load`; choose another output")
    return document


def _is_unfinished(place: Path) -> bool:
    try:
        return place.exists() and _read(place).get("complete") is False
    except InvalidInput:
        return False


def _paces(names: list[str] | None) -> list[str]:
    from ois_benchmarks.load.pacing import Pace

    unknown = sorted(set(names or ()) - set(Pace))
    if unknown:
        raise InvalidInput(f"got the pace {unknown[0]!r}; expected {', '.join(Pace)}")
    return list(names or Pace)


def _counts(text: str, option: str) -> tuple[int, ...]:
    """(1, 8, 32) from "1,8,32". Raises `InvalidInput` for anything else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise InvalidInput(f"got {option} {text!r}; expected whole numbers, for example 1,8,32")
    return tuple(sorted({int(part) for part in parts}))
