"""`ois bench overhead`: what a server adds to a click, in one run on one machine.

The same engines, images and clicks run in this process (`local:`) and behind the embedded Triton
server, over gRPC and over HTTP on loopback. The clients take turns of `in_a_row` clicks on the same
places, so that a disturbance affects all of them; the overhead is the median of the differences
place by place. The first click of a turn is not counted: it finds the processor's caches filled by
another client, which does not happen within a session. (With `in_a_row` 1 only such clicks are
counted.) What the front has of it is measured separately, see `front.py`. Client, server and
engines share the cores. How many clicks a server can answer is measured by `ois bench load`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks import machine
from ois_benchmarks.latency.front import through_and_straight
from ois_benchmarks.load.pictures import shipped_photographs
from ois_benchmarks.statistics import STAGES, quantiles, stage_medians
from ois_benchmarks.table import Column, Table, TableRow
from ois_benchmarks.timing import Bystanders
from ois_client import Client
from ois_client.contract.errors import InvalidInput
from ois_client.contract.images import load_image
from ois_client.sessions.session import Session
from ois_export.repository import REPOSITORY, write_repository
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.manifest import Manifest

#: What a server may add to a click of ois-tiny on loopback.
TARGET_MS = 3.0
WARM_UP = 10


@dataclass(slots=True)
class Clicks:
    """The clicks of one client. ms: the time of each; stages_ms: the stages in each reply."""

    ms: list[float] = field(default_factory=list)
    stages_ms: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, session: Session, x: float, y: float) -> None:
        """Time one click, then undo it, so that every click is a first one and costs the same."""
        started = time.perf_counter()
        session.click(x, y)
        self.ms.append((time.perf_counter() - started) * 1e3)
        reply = session.last_reply
        self.stages_ms.append({} if reply is None else reply.timings_ms)
        session.undo()

    def summary(self) -> dict[str, Any]:
        """Medians. `rest_ms` is protocol, copies and the client: all but the server's stages."""
        medians = stage_medians(self.stages_ms, self.ms)
        return {**spread(self.ms), **{f"{stage}_ms": ms for stage, ms in medians.items()}}


def spread(ms: Sequence[float]) -> dict[str, Any]:
    """The median with its interval, and the tail."""
    return {
        **median(ms),
        "p90_ms": round(float(np.quantile(ms, 0.90)), 3),
        "p99_ms": round(float(np.quantile(ms, 0.99)), 3),
        "clicks": len(ms),
    }


def run(engines: Path, *, clicks: int, in_a_row: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and return the result.

    Raises `OISError` if the engines or the server do not run on this machine.
    """
    if clicks < 2 or in_a_row < 1:
        raise InvalidInput(
            f"got {clicks} clicks, {in_a_row} in a row; expected at least 2 clicks, and at least 1 "
            "in a row"
        )
    manifest = Manifest.load(engines)
    others = Bystanders.before(say)
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
        say("the same requests through the front and straight to Triton")
        front = through_and_straight(server, clients["gRPC"], load_image(image), clicks)
        restarts = server.restarts
    return {
        "benchmark": "serving-overhead",
        "network": manifest.name,
        "trained": manifest.trained,
        "image": f"{image.shape[1]}x{image.shape[0]}",
        "machine": machine.describe(),
        **others.after(),
        "server_restarts": restarts,
        "target_overhead_ms": TARGET_MS,
        "in_a_row": in_a_row,
        "single": {name: each.summary() for name, each in single.items()},
        "overhead": {
            name: difference(each.ms, single["in process"].ms)
            for name, each in single.items()
            if name != "in process"
        },
        "front": {name: difference(ms["through"], ms["straight"]) for name, ms in front.items()},
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
    """The median of the differences between clicks on the same places."""
    return median([one - other for one, other in zip(ms, reference, strict=True)])


def median(ms: Sequence[float]) -> dict[str, float]:
    """The median with its 95 % interval, in which the clicks of a turn are not independent."""
    estimate = quantiles(ms)["p50"]
    if estimate is None:
        raise InvalidInput(f"got {len(ms)} clicks; expected at least 2")
    return {"median_ms": estimate.value, "low_ms": estimate.low, "high_ms": estimate.high}


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """One click by each client, and the overhead over a click in process."""
    stages = (*STAGES, "rest")
    clicks = [
        TableRow(
            [
                client,
                *(f"{row['median_ms']:.2f}", f"{row['low_ms']:.2f} to {row['high_ms']:.2f}"),
                f"{row['p99_ms']:.2f}",
                *(f"{row[f'{each}_ms']:.2f}" if f"{each}_ms" in row else "" for each in stages),
            ]
        )
        for client, row in result["single"].items()
    ]
    overhead = [
        TableRow(
            [client, f"{row['median_ms']:+.2f}", f"{row['low_ms']:+.2f} to {row['high_ms']:+.2f}"]
        )
        for client, row in result["overhead"].items()
    ]
    front = [
        TableRow(
            [name, f"{row['median_ms']:+.2f}", f"{row['low_ms']:+.2f} to {row['high_ms']:+.2f}"]
        )
        for name, row in result.get("front", {}).items()
    ]
    middle = [Column("median"), Column("95 % interval")]
    names = [Column(stage.replace("_", " ")) for stage in stages]
    noisy = "Other programs used the cores during the run: this is not a clean measurement."
    return [
        Table("", [Column("one click, ms", number=False), *middle, Column("p99"), *names], clicks),
        Table(
            "",
            [Column("overhead over in process, ms", number=False), *middle],
            overhead,
            [noisy] if result["noisy"] else [],
        ),
        *(
            [Table("", [Column("added by the front, ms", number=False), *middle], front)]
            if front
            else []
        ),
    ]
