"""`ois bench progressive`: what a coarse mask before the full one costs, and how good it is.

The robot user clicks on the photographs. The same engines answer in this process and behind the
embedded server, over gRPC and HTTP on loopback. Each click is made without a coarse mask, with one
that is requested after the usual wait, and with one that is requested at once, in changing order.
The times are the user's: from the call to the coarse mask, and to the full one. What the coarse
mask adds to the full one is the median of the differences click by click. A click before, which is
not counted, fills the processor's caches, as within a session.

The IoU of coarse and full masks is measured in process, for every click. Sessions show the coarse
mask only if it comes before the full one; `shown` is the share of clicks where it did.

With random weights times are real, but masks mean nothing: every click decodes the whole picture,
and there is no IoU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks import machine
from ois_benchmarks.latency.overhead import difference, spread
from ois_benchmarks.quality.datasets import Dataset, photographs
from ois_benchmarks.table import Column, Table, TableRow
from ois_benchmarks.timing import Bystanders
from ois_client import Client
from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError
from ois_client.contract.transport import Answer, Region
from ois_client.sessions.progressive import COARSE_AFTER_S
from ois_client.sessions.session import Session
from ois_client.sessions.stateless import stateless_request
from ois_export.repository import REPOSITORY, write_repository
from ois_network.training.clicks.robot import next_robot_click
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.manifest import Manifest

#: How long a click waits before it requests the coarse mask. "At once" lets the full request go
#: first, because whoever comes second waits for the trunk's results.
WAITS_S = {"usual": COARSE_AFTER_S, "at once": 0.002}


@dataclass(slots=True)
class Way:
    """Milliseconds of clicks with a coarse mask: to the full one, and to the coarse one, which is
    None where it did not come first."""

    full: list[float] = field(default_factory=list)
    coarse: list[float | None] = field(default_factory=list)

    def summary(self, plain: list[float]) -> dict[str, Any]:
        """JSON-ready. added: by the coarse mask to the full one. where_shown: of the clicks that
        showed one; lead: by how much it came first. What was added to these is not stated: where
        they are few, they are those that were disturbed."""
        shown = [number for number, each in enumerate(self.coarse) if each is not None]
        found = {
            "full": spread(self.full),
            "added": difference(self.full, plain),
            "shown": round(len(shown) / len(self.full), 4),
        }
        if len(shown) > 1:
            coarse = [each for each in self.coarse if each is not None]
            full = [self.full[number] for number in shown]
            found["where_shown"] = {
                "coarse": spread(coarse),
                "full": spread(full),
                "lead": difference(full, coarse),
            }
        return found


class _Came:
    """A callback that remembers when it was called."""

    at: float | None = None

    def __call__(self, _: object) -> None:
        self.at = time.perf_counter()


@dataclass(slots=True)
class Times:
    """The clicks of one client. plain: milliseconds without a coarse mask. different: full masks
    that a coarse request changed."""

    plain: list[float] = field(default_factory=list)
    ways: dict[str, Way] = field(default_factory=lambda: {name: Way() for name in WAITS_S})
    different: int = 0

    def add(self, session: Session, click: Click, region: str | None, turn: int) -> None:
        """Time the click in each way, beginning with number `turn`. The session is as before."""

        def made(show: Callable[[Any], object] | None) -> NDArray[np.uint8]:
            return session.click(click.x, click.y, click.positive, region=region, on_coarse=show)

        made(None)
        session.undo()
        names = [None, *WAITS_S]
        first = turn % len(names)
        masks = []
        for name in names[first:] + names[:first]:
            came = _Came()
            session.coarse_after_s = WAITS_S.get(name or "", 0.0)
            started = time.perf_counter()
            masks.append(made(None if name is None else came))
            ended = time.perf_counter()
            session.undo()
            took_ms = (ended - started) * 1e3
            if name is None:
                self.plain.append(took_ms)
                continue
            way = self.ways[name]
            way.full.append(took_ms)
            way.coarse.append(None if came.at is None else (came.at - started) * 1e3)
        self.different += sum(int((mask != masks[0]).any()) for mask in masks[1:])

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "plain": spread(self.plain),
            **{name: way.summary(self.plain) for name, way in self.ways.items()},
            "different_masks": self.different,
        }


def run(
    engines: Path,
    *,
    network: str | None = None,
    clicks: int,
    limit: int | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure, and return the result.

    network: export this one with random weights and measure it instead of `engines`. clicks: per
    object. limit: of the objects. Raises `EngineError` if the engines have no coarse answers, and
    `OISError` if they or the server do not run on this machine.
    """
    dataset = photographs(limit)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ois-bench-")))
        if network is not None:
            say(f"exporting {network} with random weights, without a parity check")
            engines = _random_engines(scratch / "engines", network)
        manifest = Manifest.load(engines)
        local = stack.enter_context(Client(f"local:{engines}"))
        if not local.info.coarse_answers:
            raise EngineError(
                f"the engines in {engines} have no coarse answers: they decode every click whole. "
                "Export them without --no-region"
            )
        repository = engines
        if not (engines / REPOSITORY).is_dir():
            repository = write_repository(engines, manifest, scratch)
        say("starting the server")
        server = stack.enter_context(EmbeddedServer(repository, ServerOptions()))
        clients = {
            "in process": local,
            "gRPC": stack.enter_context(Client(server.grpc_url)),
            "HTTP": stack.enter_context(Client(server.http_url)),
        }
        others = Bystanders.before(say)
        say(f"{clicks} robot clicks on each of {dataset.count} objects, by {', '.join(clients)}")
        region = None if manifest.trained else Region.FULL.value
        times, ious = measured(clients, dataset, clicks, say, region=region)
        noise = others.after()
        restarts, engine = server.restarts, local.info.engine
    return {
        "benchmark": "progressive",
        "network": network or manifest.name,
        "engine": engine,
        "model_sha256": manifest.model_sha256,
        "trained": manifest.trained,
        "dataset": dataset.describe(),
        "clicks_per_object": clicks,
        "coarse_after_ms": {name: after_s * 1e3 for name, after_s in WAITS_S.items()},
        "machine": machine.describe(),
        **noise,
        "server_restarts": restarts,
        **figures(times, ious if manifest.trained else None),
    }


def _random_engines(folder: Path, network: str) -> Path:
    from ois_benchmarks.contestants.prepared import write_network

    write_network(folder, network, None, exported=True, region=True)
    manifest = Manifest.load(folder)
    if manifest.region is None:
        raise EngineError(f"{network} was exported without the parts that decode a region")
    # No gate can judge random weights; their masks are not looked at.
    replace(manifest, region=replace(manifest.region, accepted=True)).save(folder)
    return folder


def measured(
    clients: Mapping[str, Client],
    dataset: Dataset,
    clicks: int,
    say: Callable[[str], None],
    *,
    region: str | None = None,
) -> tuple[dict[str, Times], NDArray[np.float64]]:
    """The times of each client, and the IoU (objects, clicks) of coarse and full masks.

    The clicks follow the masks of the first client. region: of the clicks.
    """
    times = {name: Times() for name in clients}
    ious = np.full((dataset.count, clicks), np.nan)
    names = [*clients]
    for number, item in enumerate(dataset.items()):
        target = item.load()
        sessions = {name: client.open(target.image) for name, client in clients.items()}
        mask = np.zeros(target.mask.shape, dtype=np.bool_)
        for round_ in range(clicks):
            click = next_robot_click(target.mask, mask)
            turn = number * clicks + round_
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                times[name].add(sessions[name], click, region, turn // len(names))
            rough = coarse_mask(sessions[names[0]], clients[names[0]], click)
            for session in sessions.values():
                full = session.click(click.x, click.y, click.positive, region=region)
                if session is sessions[names[0]]:
                    mask = full.astype(np.bool_)
            ious[number, round_] = _iou(rough, mask)
        if (number + 1) % 10 == 0:
            say(f"{number + 1} of {dataset.count} objects")
    return times, ious


def coarse_mask(session: Session, client: Client, click: Click) -> NDArray[np.bool_]:
    """The coarse mask of one more click, whether or not it would come before the full one."""
    clicks = [*session.clicks(), click]
    request = stateless_request(session.picture, clicks, [session.coverage()], client.info)
    return session.send(replace(request, answer=Answer.COARSE)).masks[0].astype(np.bool_)


def figures(times: Mapping[str, Times], ious: NDArray[np.float64] | None) -> dict[str, Any]:
    """What `measured` found, JSON-ready. ious: None where masks mean nothing."""
    found: dict[str, Any] = {"clients": {name: each.summary() for name, each in times.items()}}
    if ious is not None:
        found["iou_of_coarse_and_full"] = {
            "mean": round(float(ious.mean()), 4),
            "p10": round(float(np.quantile(ious, 0.1)), 4),
            "median": round(float(np.median(ious)), 4),
            "mean_by_click": [round(float(each), 4) for each in ious.mean(axis=0)],
        }
    return found


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """Milliseconds to both masks, and the IoU of coarse and full masks."""
    columns = ["full mask", "added", "95 % interval", "shown", "coarse mask", "full"]
    rows = []
    for client, each in result["clients"].items():
        rows.append(TableRow([client, "no", f"{each['plain']['median_ms']:.1f}", *[""] * 5]))
        for way in WAITS_S:
            one = each[way]
            added, inner = one["added"], one.get("where_shown")
            shown = [""] * 2
            if inner is not None:
                shown = [f"{inner[name]['median_ms']:.1f}" for name in ("coarse", "full")]
            rows.append(
                TableRow(
                    [
                        *(client, way, f"{one['full']['median_ms']:.1f}"),
                        f"{added['median_ms']:+.2f}",
                        f"{added['low_ms']:+.2f} to {added['high_ms']:+.2f}",
                        f"{one['shown']:.0%}",
                        *shown,
                    ]
                )
            )
    noisy = "Other programs used the cores during the run: this is not a clean measurement."
    words = [Column("one click, ms", number=False), Column("coarse request", number=False)]
    notes = ["The last two columns are medians over the clicks that showed a coarse mask."]
    notes += [noisy] if result["noisy"] else []
    tables = [Table("", [*words, *map(Column, columns)], rows, notes)]
    if iou := result.get("iou_of_coarse_and_full"):
        by_click = [f"{each:.3f}" for each in iou["mean_by_click"]]
        heads = [*(f"click {k}" for k in range(1, len(by_click) + 1)), "all", "worst tenth"]
        row = TableRow(["mean", *by_click, f"{iou['mean']:.3f}", f"{iou['p10']:.3f}"])
        name = Column("IoU of coarse and full masks", number=False)
        tables.append(Table("", [name, *map(Column, heads)], [row]))
    return tables


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0
