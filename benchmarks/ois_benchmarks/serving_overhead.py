"""What a server adds to a click, and how many clicks it answers: one run, one machine.

    python -m ois_benchmarks.serving_overhead

The same engines, pictures and clicks in this process (`local:`) and behind the embedded
Triton server, over gRPC and HTTP on loopback. Single clicks are taken in turn, so that what
disturbs one disturbs all; `overhead` is the median of the differences. Then sessions that
click without a pause. Client, server and engines share the cores: what is measured is a whole
small machine, not a server with clients elsewhere.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_benchmarks import machine
from ois_benchmarks.engines import save
from ois_benchmarks.serving_load import STAGES, busy_share, many_sessions, side_by_side
from ois_benchmarks.timing import QUIET_SHARE, median_interval
from ois_client import Client
from ois_client.errors import OISError
from ois_export.repository import REPOSITORY, write_repository
from ois_runtime.local import DEFAULT_ENGINES
from ois_runtime.manifest import Manifest
from ois_runtime.server import EmbeddedServer
from ois_runtime.server_command import ServerOptions

OUTPUT = Path("benchmarks/results/serving-overhead-cpu.json")
#: Issue 4: what a server may add to a click of ois-tiny on loopback.
TARGET_MS = 3.0
SESSIONS = (1, 8, 32)


def run(
    engines: Path,
    *,
    clicks: int,
    sessions: list[int],
    seconds: float,
    say: Any = lambda text: print(text, file=sys.stderr),
) -> dict[str, Any]:
    """Measure. Raises `OISError` when the engines or the server do not run here."""
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
        images = photographs()
        say(f"{clicks} clicks by each of {', '.join(clients)}")
        single = side_by_side(clients, images[0], clicks)
        throughput = []
        for name, client in clients.items():
            for count in sessions:
                row = {"client": name, **many_sessions(client, images, count, seconds)}
                throughput.append(row)
                say(f"{name}, {count} sessions: {row['clicks_per_second']} clicks/s")
        restarts = server.restarts
    after = busy_share()
    return {
        "benchmark": "serving-overhead",
        "network": manifest.name,
        "trained": manifest.trained,
        "image": f"{images[0].shape[1]}x{images[0].shape[0]}",
        "images": len(images),
        "machine": machine.describe(),
        "others_share": {"before": before, "after": after},
        "noisy": max(before, after) > QUIET_SHARE,
        "server_restarts": restarts,
        "target_overhead_ms": TARGET_MS,
        "single": {name: each.summary() for name, each in single.items()},
        "overhead": {
            name: difference(each.ms, single["in process"].ms)
            for name, each in single.items()
            if name != "in process"
        },
        "throughput": throughput,
    }


def difference(ms: list[float], reference: list[float]) -> dict[str, float]:
    """Of clicks that were taken side by side: the median difference and its interval."""
    pairs = [one - other for one, other in zip(ms, reference, strict=True)]
    low, high = median_interval(pairs)
    return {
        "median_ms": round(float(np.median(pairs)), 3),
        "low_ms": round(low, 3),
        "high_ms": round(high, 3),
    }


def photographs() -> list[NDArray[np.uint8]]:
    """The shipped photographs, (H, W, 3) uint8 RGB."""
    folder = Path(str(resources.files("ois_export"))) / "photos"
    found = []
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as picture:
            found.append(np.asarray(picture.convert("RGB")))
    return found


def markdown(result: dict[str, Any]) -> str:
    """The result as three tables."""
    titles = ("queue", "decode", "postprocess", "encode mask", "wire")
    names = (*(f"{stage}_ms" for stage in STAGES), "wire_ms")
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
    lines += [
        "",
        "| client | sessions | clicks/s | median ms | p99 ms | failures |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["throughput"]:
        lines.append(
            f"| {row['client']} | {row['sessions']} | {row['clicks_per_second']:.1f} "
            f"| {row['median_ms']:.1f} | {row['p99_ms']:.1f} | {row['failures']} |"
        )
    if result["noisy"]:
        lines += ["", "Other programs used the cores meanwhile: not a clean measurement."]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engines", type=Path, default=DEFAULT_ENGINES)
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--sessions", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    try:
        result = run(
            args.engines,
            clicks=args.clicks,
            sessions=args.sessions or list(SESSIONS),
            seconds=args.seconds,
        )
        save(result, args.output)
    except OISError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(result))
    print(f"written to {args.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
