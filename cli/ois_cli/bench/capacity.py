"""`ois bench capacity`: what many replicas can serve, by simulation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ois_cli.bench.options import RESULT_FORMATS, RESULTS, check_place, print_result
from ois_cli.options import AsJson, Engines
from ois_cli.output import say, warn
from ois_client.contract.errors import InvalidInput

_MIB = 2**20


def register(parent: typer.Typer) -> None:
    parent.command("capacity")(capacity)


def capacity(
    measured: Annotated[
        Path,
        typer.Argument(help="Service times: a result of ois bench load, of any server."),
    ] = RESULTS / "load-ois-tiny-cpu.json",
    click_ms: Annotated[
        float | None,
        typer.Option(help="Median of a click instead of the measured one.", show_default=False),
    ] = None,
    encode_ms: Annotated[
        float | None,
        typer.Option(help="Median of an encode instead of the measured one.", show_default=False),
    ] = None,
    image_mib: Annotated[
        float, typer.Option(help="Memory of an image's features, see ois bench flops.")
    ] = 2.5,
    store_gib: Annotated[float, typer.Option(help="Memory of each replica's store.")] = 2.0,
    replicas: Annotated[
        str, typer.Option(metavar="N,...", help="Numbers of replicas, one row each.")
    ] = "10,30,100,300,1000",
    load: Annotated[
        float, typer.Option(help="Share of a replica's time that clicks and encodes take.")
    ] = 0.5,
    balance: Annotated[
        int, typer.Option(help="As of ois cluster: percent of the average load of a replica.")
    ] = 200,
    objects: Annotated[float, typer.Option(help="Objects per image, on average.")] = 3.0,
    think: Annotated[float, typer.Option(help="Median seconds between clicks (lognormal).")] = 1.5,
    catalogue: Annotated[
        int, typer.Option(help="Different images that people open; 0: each session a new one.")
    ] = 0,
    zipf: Annotated[float, typer.Option(help="Exponent of the catalogue's popularity.")] = 0.0,
    clicks: Annotated[int, typer.Option(help="Simulated clicks per row, at least.")] = 100_000,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Instead: play sessions on three real servers behind Envoy on this machine, "
            "simulate the same sessions, and compare.",
        ),
    ] = False,
    engines: Engines = None,
    longest: Annotated[
        int | None,
        typer.Option(help="--check: longest side of the network's images.", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(help="--check: in which sessions arrive.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Seed of sessions and service times.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The chart is written beside it, as .svg. Default: "
            "benchmarks/results/capacity.json, with --check capacity-check.json.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate 10 to 1,000 replicas behind consistent hashing under real click rates.

    Service times come from a measurement, queues from the simulation: p50 and p99 of clicks and of
    opening an image, how many find its features, what too little memory costs, and for how long the
    loss of a replica is felt. docs/scaling.md explains the model and its limits.

    Example: [b]ois bench capacity --click-ms 5 --encode-ms 20 --image-mib 39 --store-gib 40[/b]
    """
    from ois_benchmarks.capacity.workload import Workload
    from ois_benchmarks.load.pacing import ThinkTime
    from ois_benchmarks.results import read_json, write_result

    place = output or RESULTS / f"capacity{'-check' if check else ''}.json"
    check_place(place, RESULT_FORMATS, default=output is None)
    work = Workload(
        objects=objects, think=ThinkTime(median_s=think), catalogue=catalogue, zipf=zipf
    )
    if check:
        _check(place, engines, longest, seconds, work, seed, as_json=as_json)
        return

    from ois_benchmarks.capacity.chart import capacity_svg
    from ois_benchmarks.capacity.readout import CapacityPlan, Readout
    from ois_benchmarks.capacity.service import times_of_load
    from ois_benchmarks.capacity.table import markdown
    from ois_client.contract.files import write_files

    found = read_json(measured)
    if not isinstance(found, dict):
        raise InvalidInput(f"{measured} is not a result of `ois bench load`")
    times, parallel = times_of_load(found, round(image_mib * _MIB))
    times = times.scaled(
        click_s=None if click_ms is None else click_ms / 1e3,
        encode_s=None if encode_ms is None else encode_ms / 1e3,
    )
    plan = CapacityPlan(
        sizes=_sizes(replicas),
        load=load,
        store_bytes=round(store_gib * 2**30),
        balance_percent=balance,
        parallel=parallel,
        workload=work,
        clicks=clicks,
        seed=seed,
    )
    source = {
        "file": measured.name,
        "model": found.get("model"),
        "machine": found.get("machine"),
        "click_ms": click_ms,
        "encode_ms": encode_ms,
    }
    readout = Readout(times, plan, source)

    def save(document: Mapping[str, Any]) -> None:
        write_result(place, document)

    readout.run(save, say)
    write_files({place.with_suffix(".svg"): capacity_svg(readout.document).encode()})
    print_result(readout.document, markdown(readout.document), place, as_json=as_json)
    say(f"chart: {place.with_suffix('.svg')}")


def _check(
    place: Path,
    engines: Path | None,
    longest: int | None,
    seconds: float,
    work: Any,
    seed: int,
    *,
    as_json: bool,
) -> None:
    from ois_benchmarks import machine
    from ois_benchmarks.capacity.check import CheckPlan
    from ois_benchmarks.capacity.check import check as run_check
    from ois_benchmarks.capacity.table import agreement
    from ois_benchmarks.results import write_result
    from ois_benchmarks.timing import QUIET_SHARE
    from ois_cli.serve import model_repository
    from ois_runtime.engines.local import default_engine_folder
    from ois_runtime.engines.manifest import Manifest

    chosen = engines or default_engine_folder()
    manifest = Manifest.load(chosen)
    plan = CheckPlan(seconds=seconds, longest=longest, workload=work, seed=seed)
    with model_repository(chosen) as repository:
        compared = run_check(repository, plan, say)
    document = {
        "benchmark": "capacity-check",
        "schema": 1,
        "complete": True,
        "model": {"name": manifest.name, "longest": longest or manifest.longest},
        "machine": machine.describe(),
        "noisy": compared["others_share"] > QUIET_SHARE,
        **compared,
    }
    write_result(place, document)
    print_result(document, agreement(document), place, as_json=as_json)
    if document["noisy"]:
        warn("other programs used the cores, so times cannot agree; run it on a quiet machine")
    if not all(one["within"] for one in document["agreement"]):
        warn("the simulation does not agree with the servers within its bounds")
        raise typer.Exit(1)


def _sizes(text: str) -> tuple[int, ...]:
    """(10, 100) from "10,100". Raises `InvalidInput` for anything else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise InvalidInput(f"got --replicas {text!r}; expected whole numbers, for example 10,100")
    return tuple(sorted({int(part) for part in parts}))
