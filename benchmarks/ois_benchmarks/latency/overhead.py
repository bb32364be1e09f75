"""What a server adds to a click: one run, one machine.

    python -m ois_benchmarks.latency.overhead

The same engines, pictures and clicks in this process (`local:`) and behind the embedded
Triton server, over gRPC and HTTP on loopback. They take turns of `--in-a-row` clicks on the same
places, so that what disturbs one disturbs all; `overhead` is the median of the differences place
by place. The first click of a turn is not counted: it finds the processor's caches full of
somebody else's weights, as no click of a session does. (`--in-a-row 1` counts only such ones.)
Client, server and engines share the cores. How many clicks a server answers is `ois bench load`'s
business.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks import machine
from ois_benchmarks.latency.engines import save
from ois_benchmarks.load.pictures import shipped_photographs
from ois_benchmarks.statistics import STAGES, quantiles, stage_medians
from ois_benchmarks.timing import QUIET_SHARE, busy_share
from ois_client import Client
from ois_client.contract.errors import InvalidInput, OISError
from ois_client.contract.images import load_image
from ois_client.sessions.session import Session
from ois_export.repository import REPOSITORY, write_repository
from ois_runtime.embedded.command import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.local import DEFAULT_ENGINES
from ois_runtime.engines.manifest import Manifest

OUTPUT = Path("benchmarks/results/serving-overhead-cpu.json")
#: Issue 4: what a server may add to a click of ois-tiny on loopback.
TARGET_MS = 3.0
IN_A_ROW = 10
WARM_UP = 10


@dataclass(slots=True)
class Clicks:
    """Clicks of one kind. ms: each one's time in the client; stages_ms: as the reply has them."""

    ms: list[float] = field(default_factory=list)
    stages_ms: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, session: Session, x: float, y: float) -> None:
        """One click, taken back again, so that all clicks are first ones and cost the same."""
        started = time.perf_counter()
        session.click(x, y)
        self.ms.append((time.perf_counter() - started) * 1e3)
        reply = session.last_reply
        self.stages_ms.append({} if reply is None else reply.timings_ms)
        session.undo()

    def summary(self) -> dict[str, Any]:
        """Medians; `rest_ms`: protocol, copies and the client, all but the server's stages."""
        medians = stage_medians(self.stages_ms, self.ms)
        return {**spread(self.ms), **{f"{stage}_ms": ms for stage, ms in medians.items()}}


def spread(ms: Sequence[float]) -> dict[str, Any]:
    """Median with its interval, and the tail."""
    return {
        **median(ms),
        "p90_ms": round(float(np.quantile(ms, 0.90)), 3),
        "p99_ms": round(float(np.quantile(ms, 0.99)), 3),
        "clicks": len(ms),
    }


def run(
    engines: Path,
    *,
    clicks: int,
    in_a_row: int = IN_A_ROW,
    say: Any = lambda text: print(text, file=sys.stderr),
) -> dict[str, Any]:
    """Measure. Raises `OISError` when the engines or the server do not run here."""
    if clicks < 2 or in_a_row < 1:
        raise InvalidInput(
            f"got {clicks} clicks, {in_a_row} in a row; expected 2 or more, and 1 or more"
        )
    manifest = Manifest.load(engines)
    before = busy_share()
    if before > QUIET_SHARE:
        say(f"other programs use {before:.0%} of the cores: the numbers will say so")
    with ExitStack() as stack:
        repository = engines
        if not (engines / REPOSITORY).is_dir():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ois-bench-"))
            repository = write_repository(engines, manifest, Path(folder))
        say("starting the server")
        server = stack.enter_context(EmbeddedServer(repository, ServerOptions()))
        clients = {
            "in process": stack.enter_context(Client(f"local:{engines}")),
            "gRPC": stack.enter_context(Client(server.grpc_url)),
            "HTTP": stack.enter_context(Client(server.http_url)),
        }
        image = load_image(shipped_photographs()[0]).pixels()
        say(f"{clicks} clicks by each of {', '.join(clients)}")
        single = side_by_side(clients, image, clicks, in_a_row)
        restarts = server.restarts
    after = busy_share()
    return {
        "benchmark": "serving-overhead",
        "network": manifest.name,
        "trained": manifest.trained,
        "image": f"{image.shape[1]}x{image.shape[0]}",
        "machine": machine.describe(),
        "others_share": {"before": before, "after": after},
        "noisy": max(before, after) > QUIET_SHARE,
        "server_restarts": restarts,
        "target_overhead_ms": TARGET_MS,
        "in_a_row": in_a_row,
        "single": {name: each.summary() for name, each in single.items()},
        "overhead": {
            name: difference(each.ms, single["in process"].ms)
            for name, each in single.items()
            if name != "in process"
        },
    }


def side_by_side(
    clients: Mapping[str, Client], image: NDArray[np.uint8], count: int, in_a_row: int
) -> dict[str, Clicks]:
    """`count` clicks by each client on the same places, in turns of `in_a_row`."""
    sessions = {name: client.open(image) for name, client in clients.items()}
    found = {name: Clicks() for name in clients}
    height, width = image.shape[:2]
    places = np.random.default_rng(0).uniform(0.1, 0.9, (count, 2)) * (width, height)
    names = list(clients)
    for _ in range(WARM_UP):
        for session in sessions.values():
            Clicks().add(session, *places[0])
    for turn, start in enumerate(range(0, count, in_a_row)):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if in_a_row > 1:
                Clicks().add(sessions[name], *places[start - 1])
            for x, y in places[start : start + in_a_row]:
                found[name].add(sessions[name], x, y)
    return found


def difference(ms: list[float], reference: list[float]) -> dict[str, float]:
    """Of clicks on the same places."""
    return median([one - other for one, other in zip(ms, reference, strict=True)])


def median(ms: Sequence[float]) -> dict[str, float]:
    """With its 95 % interval, which knows that the clicks of a turn are alike."""
    estimate = quantiles(ms)["p50"]
    if estimate is None:
        raise InvalidInput(f"got {len(ms)} clicks; expected 2 or more")
    return {"median_ms": estimate.value, "low_ms": estimate.low, "high_ms": estimate.high}


def markdown(result: dict[str, Any]) -> str:
    """The result as two tables."""
    titles = ("queue", "decode", "postprocess", "encode mask", "rest")
    names = (*(f"{stage}_ms" for stage in STAGES), "rest_ms")
    lines = [
        f"| one click, ms | median | 95 % interval | p99 | {' | '.join(titles)} |",
        f"|---|---|---|---|{'---|' * len(titles)}",
    ]
    for client, row in result["single"].items():
        parts = " | ".join(f"{row[name]:.2f}" if name in row else "" for name in names)
        lines.append(
            f"| {client} | {row['median_ms']:.2f} | {row['low_ms']:.2f} to {row['high_ms']:.2f} "
            f"| {row['p99_ms']:.2f} | {parts} |"
        )
    lines += ["", "| overhead over in process, ms | median | 95 % interval |", "|---|---|---|"]
    for client, row in result["overhead"].items():
        lines.append(
            f"| {client} | {row['median_ms']:+.2f} "
            f"| {row['low_ms']:+.2f} to {row['high_ms']:+.2f} |"
        )
    if result["noisy"]:
        lines += ["", "Other programs used the cores meanwhile: not a clean measurement."]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engines", type=Path, default=DEFAULT_ENGINES)
    parser.add_argument("--clicks", type=int, default=300, help="by each client")
    parser.add_argument(
        "--in-a-row", type=int, default=IN_A_ROW, help="clicks before the next client's turn"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    try:
        result = run(args.engines, clicks=args.clicks, in_a_row=args.in_a_row)
        save(result, args.output)
    except OISError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(result))
    print(f"written to {args.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
