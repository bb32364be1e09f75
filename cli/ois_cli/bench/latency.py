"""`ois bench spc` and `ois bench sat`: seconds per click, and per picture, against the peers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ois_cli.bench.places import RESULTS, check_place, parse_size
from ois_cli.options import AsJson
from ois_cli.output import print_json, say
from ois_client.contract.errors import InvalidInput

_FORMATS = {".json": "JSON"}
#: The sample size of the peers' own evaluations, and a square, where nobody's padding hides.
_SIZES = ("854x480", "1024x1024")

Contestants = Annotated[
    list[str] | None,
    typer.Option(
        "--contestant",
        "-c",
        help="Repeat it: ois, a peer (sam, hqsam, mobilesam, efficientsam, segnext, simpleclick), "
        "one contestant by its name, or module:function. Default: all.",
    ),
]
Checkouts = Annotated[
    list[str] | None,
    typer.Option(
        "--checkout", metavar="PEER=FOLDER", help="Your clone of a peer's repository; repeat it."
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        metavar="PEER=FILE",
        help="A peer's checkpoint; repeat it. Default: random weights, enough for latency.",
    ),
]
Network = Annotated[str, typer.Option(help="OIS's: tiny, vits, vitb or vitl, with random weights.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Measure this OIS network instead.", show_default=False)
]
Plans = Annotated[
    Path | None,
    typer.Option(
        help="Folder of `ois build`, of the same checkpoint: for ois-tensorrt.", show_default=False
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="WIDTHxHEIGHT",
        help=f"The picture's; repeat it. Default: {' and '.join(_SIZES)}.",
    ),
]
Repeats = Annotated[int, typer.Option(min=1, help="Quiet repetitions of an encode that count.")]
Patience = Annotated[
    int,
    typer.Option(
        min=1, help="On a machine that is not quiet, repeat at most so many times as often."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of all. Default: all cores.")]
Device = Annotated[str, typer.Option(help="Where PyTorch's contestants run: cpu or cuda.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on in the output; failed rows are tried again.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Default: benchmarks/results/<command>-<network>-<device>.json."
    ),
]


def register(parent: typer.Typer) -> None:
    parent.command()(spc)
    parent.command()(sat)


def spc(
    contestant: Contestants = None,
    checkout: Checkouts = None,
    weights: Weights = None,
    network: Network = "vitb",
    checkpoint: Checkpoint = None,
    plans: Plans = None,
    size: Sizes = None,
    repeats: Repeats = 5,
    clicks: Annotated[int, typer.Option(min=1, help="Quiet clicks that count.")] = 22,
    loop_clicks: Annotated[
        int, typer.Option(min=1, max=24, help="Robot clicks of the definition loop.")
    ] = 20,
    patience: Patience = 4,
    threads: Threads = None,
    device: Device = "cpu",
    resume: Resume = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Seconds per click of OIS in every engine, and of its peers, on this machine.

    Three definitions, never mixed: click (network and mask, image encoded before), loop (RITM's
    and SegNext's: the whole evaluation loop divided by its clicks) and session (through a
    server). Each contestant has a process of its own with the same allocator and threads; rows
    are written as they finish. docs/benchmarks.md says how peers are added. Exits with 1 when no
    row was measured.
    """
    counts = {
        "encodes": repeats,
        "clicks": clicks,
        "loop_clicks": loop_clicks,
        "patience": patience,
    }
    _run(
        "spc",
        contestant,
        checkout,
        weights,
        network=network,
        checkpoint=checkpoint,
        plans=plans,
        size=size,
        counts=counts,
        threads=threads,
        device=device,
        resume=resume,
        output=output,
        as_json=as_json,
    )


def sat(
    contestant: Contestants = None,
    checkout: Checkouts = None,
    weights: Weights = None,
    network: Network = "vitb",
    checkpoint: Checkpoint = None,
    plans: Plans = None,
    size: Sizes = None,
    repeats: Repeats = 5,
    full_below: Annotated[
        int,
        typer.Option(
            min=0, metavar="SECONDS", help="Make all 256 clicks where they take at most so long."
        ),
    ] = 120,
    clicks: Annotated[
        int, typer.Option(min=1, max=256, help="Else make so many, and project from them.")
    ] = 16,
    batch: Annotated[
        int, typer.Option(min=1, max=256, help="Objects in one call of the batched mode.")
    ] = 4,
    patience: Patience = 4,
    threads: Threads = None,
    device: Device = "cpu",
    resume: Resume = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Seconds to encode a picture and answer a 16x16 grid of clicks: OIS and its peers.

    Three modes, never mixed: sequential (SegNext's protocol: 256 single clicks), batched
    (several objects in one call) and automatic (SAM's own mask generator). What is projected
    from fewer clicks says so. Exits with 1 when no row was measured.
    """
    counts = {
        "encodes": repeats,
        "full_below_s": full_below,
        "sat_clicks": clicks,
        "batch": batch,
        "patience": patience,
    }
    _run(
        "sat",
        contestant,
        checkout,
        weights,
        network=network,
        checkpoint=checkpoint,
        plans=plans,
        size=size,
        counts=counts,
        threads=threads,
        device=device,
        resume=resume,
        output=output,
        as_json=as_json,
    )


def _run(
    command: str,
    contestant: list[str] | None,
    checkout: list[str] | None,
    weights: list[str] | None,
    *,
    network: str,
    checkpoint: Path | None,
    plans: Path | None,
    size: list[str] | None,
    counts: dict[str, int],
    threads: int | None,
    device: str,
    resume: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    if device not in ("cpu", "cuda"):
        raise InvalidInput(f"got the device {device!r}; expected cpu or cuda")
    sizes = [parse_size(text) for text in size or _SIZES]
    name = checkpoint.stem if checkpoint else network
    place = output or RESULTS / f"{command}-{name}-{device}.json"
    check_place(place, _FORMATS, default=output is None)

    from ois_benchmarks import machine
    from ois_benchmarks.contestants.registry import choose, peer_of
    from ois_benchmarks.latency.result import Benchmark
    from ois_benchmarks.latency.run import Plan, run
    from ois_benchmarks.latency.table import markdown
    from ois_benchmarks.latency.work import Work

    chosen = choose(contestant or [])
    if command == "sat":  # a server is no contestant of it, see `sat.measure_sat`
        served = ("ois-server", "ois-server-cuda")
        chosen = [each for each in chosen if each not in served or each in (contestant or [])]
    peers = {peer_of(each) for each in chosen} - {""}
    if plans is not None and not plans.is_dir():
        raise InvalidInput(f"got --plans {plans}; expected the folder that `ois build` wrote")
    if checkpoint is None:
        from ois_network.config import preset

        preset(network)  # an unknown name is told before anything runs
    elif not checkpoint.is_file():
        raise InvalidInput(f"no checkpoint at {checkpoint}")
    plan = Plan(
        benchmark=Benchmark(command),
        contestants=tuple(chosen),
        work=tuple(Work(width=width, height=height, **counts) for width, height in sizes),
        threads=threads or machine.available_cores(),
        device=device,
        network=network,
        checkpoint=checkpoint,
        plans=plans,
        checkouts=_named(checkout, "--checkout", peers, folder=True),
        weights=_named(weights, "--weights", peers, folder=False),
    )
    try:
        result = run(plan, place, resume=resume, say=say)
    except KeyboardInterrupt:
        say(f"interrupted; the same command with --resume goes on from {place}")
        raise
    if as_json:
        print_json(result.to_dict())
    else:
        print(markdown(result))
    say(f"written to {place}")
    if all(row.failed is not None for row in result.rows):
        say("nothing was measured; each row says why")
        raise typer.Exit(1)


def _named(
    given: list[str] | None, option: str, peers: set[str], *, folder: bool
) -> dict[str, Path]:
    """`PEER=PATH` words -> paths. Raises `InvalidInput` for a peer or a path that is not there."""
    found: dict[str, Path] = {}
    for word in given or []:
        peer, separator, text = word.partition("=")
        path = Path(text).expanduser()
        if not separator or not text:
            raise InvalidInput(f"got {option} {word!r}; expected PEER=PATH, as segnext=../SegNext")
        if peer not in peers:
            raise InvalidInput(
                f"got {option} for {peer!r}; expected one of {', '.join(sorted(peers))}"
            )
        if not (path.is_dir() if folder else path.is_file()):
            raise InvalidInput(
                f"got {option} {word}; there is no {'folder' if folder else 'file'} at {path}"
            )
        found[peer] = path
    return found
