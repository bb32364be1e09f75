"""Three real servers behind a real edge, and the simulation of the same sessions beside them.

All of it runs on one machine: the servers share its processors with Envoy and the client, and so
do the simulated replicas (`machine_parallel`). First the service times are measured on idle
servers, and how many requests one server, and all together, work on at full speed. Then the same
sessions, with the same times and pauses, are played and simulated.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ois_benchmarks.capacity.machines import ReplicaOptions
from ois_benchmarks.capacity.service import ServiceTimes
from ois_benchmarks.capacity.simulation import Cluster, Seen, simulate
from ois_benchmarks.capacity.statistics import summary
from ois_benchmarks.capacity.workload import Session, Workload
from ois_benchmarks.load.pictures import LoadPicture, read_pictures
from ois_benchmarks.timing import busy_share
from ois_client import Client
from ois_client.contract.errors import EngineError, OISError
from ois_client.sessions.async_client import AsyncClient
from ois_client.sessions.async_session import AsyncSession
from ois_runtime.edge.process import Edge
from ois_runtime.edge.settings import EdgeSettings, Listen, Replica
from ois_runtime.embedded.command import choose_ports
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer

SERVERS = 3
#: How far the simulation may be off: a factor for times, a difference for shares.
BOUNDS = {"p50": 1.35, "p99": 2.0, "hit_share": 0.05}
_WARM_UP_SHARE = 0.15
_CLICKS, _IMAGES = 160, 40
_USERS = 6  # per server, while the work at full speed is measured
_PARALLEL_S = 4.0
_MOST_CLICKS = 8  # on an object
_MEASURING_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPlan:
    """seconds: of the sessions' arrivals. load: share of the machine that is busy. store: images
    that a server's store holds, as a share of those in use there on average; with less than about
    2 it evicts.
    """

    seconds: float = 120.0
    load: float = 0.3
    store: float = 1.0
    longest: int | None = None
    workload: Workload = field(default_factory=Workload)
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """times: on idle servers. replica_parallel, machine_parallel: requests at full speed."""

    times: ServiceTimes
    replica_parallel: float
    machine_parallel: float


def check(
    repository: Path, plan: CheckPlan, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure, play and simulate. Returns the comparison, JSON-ready.

    Raises `EngineError` if servers or Envoy cannot run here.
    """
    picture = min(read_pictures(), key=lambda one: len(one.data))
    tell("measuring service times")
    with _cluster(repository, plan, _MEASURING_BYTES) as (servers, url):
        quiet = busy_share()
        measured = _measure(servers, url, picture)
    per_second = (
        plan.load
        * measured.machine_parallel
        / measured.times.busy_s(plan.workload.clicks_per_session)
    )
    in_use = per_second * plan.workload.session_s / SERVERS
    store_images = max(2, round(plan.store * in_use))
    sessions = plan.workload.sessions(per_second, plan.seconds, plan.seed)
    tell(f"{len(sessions)} sessions in {plan.seconds:g} s")
    cache_bytes = round((store_images + 0.5) * measured.times.image_bytes)
    with _cluster(repository, plan, cache_bytes) as (servers, url):
        played = asyncio.run(_play(url, sessions, picture))
        evictions = sum(_metric(one, "ois_store_evictions_total") for one in servers)
    warm_up_s = _WARM_UP_SHARE * plan.seconds
    real = {
        kind: summary(_since(seen, warm_up_s))
        for kind, seen in zip(("opens", "clicks"), played, strict=True)
    }
    cluster = Cluster(
        replicas=SERVERS,
        options=ReplicaOptions(store_images=store_images, parallel=measured.replica_parallel),
        machine_parallel=measured.machine_parallel,
    )
    outcome = simulate(cluster, measured.times, sessions, warm_up_s=warm_up_s, seed=plan.seed)
    simulated = {"opens": summary(outcome.opens), "clicks": summary(outcome.clicks)}
    return {
        "servers": SERVERS,
        "seconds": plan.seconds,
        "sessions": len(sessions),
        "load": plan.load,
        "store_images": store_images,
        "images_in_use": round(in_use, 1),
        "think_median_s": plan.workload.think.median_s,
        "others_share": quiet,
        "service": measured.times.summary(),
        "replica_parallel": round(measured.replica_parallel, 2),
        "machine_parallel": round(measured.machine_parallel, 2),
        "measured": {**real, "evictions": evictions},
        "simulated": {**simulated, "evictions": outcome.evictions},
        "bounds": BOUNDS,
        "agreement": compare(real, simulated),
    }


def compare(
    real: Mapping[str, Mapping[str, Any]], simulated: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row per number: both values, how far apart they are, and whether that is allowed."""
    rows = []
    for kind in ("clicks", "opens"):
        for name, bound in BOUNDS.items():
            one, other = real[kind][name], simulated[kind][name]
            if one is None or other is None:
                continue
            if name == "hit_share":
                off, within = abs(one - other), abs(one - other) <= bound
            else:
                off = max(one, other) / max(min(one, other), 1e-9)
                within = off <= bound
            rows.append(
                {
                    "what": f"{kind} {name}",
                    "measured": one,
                    "simulated": other,
                    "off": round(off, 3),
                    "within": within,
                }
            )
    return rows


# -- real servers --------------------------------------------------------------------------------


@contextmanager
def _cluster(
    repository: Path, plan: CheckPlan, cache_bytes: int
) -> Iterator[tuple[list[EmbeddedServer], str]]:
    """Servers behind Envoy. Yields them, and the address of the edge."""
    options = ServerOptions(cache_bytes=cache_bytes, longest=plan.longest, exit_timeout_s=10)
    with ExitStack() as held:
        servers = [held.enter_context(EmbeddedServer(repository, options)) for _ in range(SERVERS)]
        ports = choose_ports(ServerOptions())
        settings = EdgeSettings(
            http=Listen("127.0.0.1", ports.http), grpc=Listen("127.0.0.1", ports.grpc)
        )
        replicas = [
            Replica("127.0.0.1", *(urlsplit(url).port or 0 for url in (one.http_url, one.grpc_url)))
            for one in servers
        ]
        held.enter_context(Edge(replicas, settings))
        yield servers, f"grpc://127.0.0.1:{ports.grpc}"


def _metric(server: EmbeddedServer, name: str) -> int:
    if server.metrics_url is None:
        raise EngineError("a server without a metrics port cannot be measured")
    with urllib.request.urlopen(server.metrics_url, timeout=20) as reply:
        found = re.search(rf"^{name}(?:{{.*}})? (\S+)$", reply.read().decode(), re.M)
    return int(float(found[1])) if found else 0


def _measure(servers: Sequence[EmbeddedServer], url: str, picture: LoadPicture) -> Measured:
    mark = secrets.token_hex(8)
    encode_s: list[float] = []
    light_s: list[float] = []
    click_s: list[float] = []
    other_s: list[float] = []

    def note(took_s: float, timings_ms: Mapping[str, float], into: list[float]) -> None:
        into.append(timings_ms["total"] / 1e3)
        other_s.append(max(0.0, took_s - (timings_ms["total"] + timings_ms.get("queue", 0)) / 1e3))

    with Client(url) as client:
        for number in range(_IMAGES):
            data = picture.unseen(f"{mark} {number}").data
            for into in (encode_s, light_s):
                began = time.perf_counter()
                session = client.open(data)
                if session.last_encode is not None:
                    note(time.perf_counter() - began, session.last_encode.timings_ms, into)
            for count in range(_CLICKS // _IMAGES):
                began = time.perf_counter()
                session.click((0.2 + 0.15 * count) * picture.width, 0.4 * picture.height)
                if session.last_reply is not None:
                    note(time.perf_counter() - began, session.last_reply.timings_ms, click_s)
    images = sum(_metric(one, "ois_store_images") for one in servers)
    image_bytes = sum(_metric(one, "ois_store_bytes") for one in servers) // max(1, images)
    skip = 5  # connections and engines warm up
    times = ServiceTimes(
        click_s=click_s[skip:],
        encode_s=encode_s[skip:],
        light_s=light_s[skip:],
        other_s=other_s[3 * skip :],
        image_bytes=image_bytes,
    )
    mean_s = float(np.mean(times.click_s))
    urls = [one.grpc_url for one in servers]
    one, all_of_them = (
        mean_s * asyncio.run(_throughput(chosen, picture)) for chosen in (urls[:1], urls)
    )
    return Measured(
        times=times,
        replica_parallel=max(1.0, one),
        machine_parallel=max(1.0, one, all_of_them),
    )


async def _throughput(urls: Sequence[str], picture: LoadPicture) -> float:
    """Clicks per second of some users per server who never pause."""
    done = 0
    over = time.monotonic() + _PARALLEL_S

    async def user(client: AsyncClient, number: int) -> None:
        nonlocal done
        session = await client.open(picture.unseen(f"user {number}").data)
        while time.monotonic() < over:
            await session.click(0.3 * picture.width, 0.4 * picture.height)
            session.undo()
            done += 1

    clients = [AsyncClient(url) for url in urls]
    try:
        for client in clients:
            await client.connect()
        began = time.monotonic()
        over = began + _PARALLEL_S
        async with asyncio.TaskGroup() as group:
            for number in range(_USERS * len(clients)):
                group.create_task(user(clients[number % len(clients)], number))
        return done / (time.monotonic() - began)
    finally:
        for client in clients:
            await client.close()


async def _play(url: str, sessions: Sequence[Session], picture: LoadPicture) -> tuple[Seen, Seen]:
    """Play the sessions at their times. Returns what was seen of opens and of clicks."""
    mark = secrets.token_hex(8)
    rows: dict[str, list[tuple[float, float, bool]]] = {"opens": [], "clicks": []}
    failed = {"opens": 0, "clicks": 0}

    async def timed(kind: str, call: Awaitable[Any]) -> tuple[float, float]:
        due = time.monotonic()
        try:
            await call
        except OISError:
            failed[kind] += 1
            raise
        return due - began, 1e3 * (time.monotonic() - due)

    async def one(client: AsyncClient, session: Session) -> None:
        opened = await client.open(picture.unseen(f"{mark} {session.image}").data, encode=False)
        await asyncio.sleep(max(0.0, began + session.at_s - time.monotonic()))
        try:
            at = await timed("opens", opened.encode())
            encode = opened.last_encode
            rows["opens"].append((*at, encode is not None and encode.cached))
            for pause_s in session.pauses_s:
                await asyncio.sleep(pause_s)
                if len(opened.clicks()) >= _MOST_CLICKS:
                    opened.new_object()
                at = await timed("clicks", opened.click(0.3 * picture.width, 0.4 * picture.height))
                rows["clicks"].append((*at, not _encoded(opened)))
        except OISError:
            return  # counted

    began = 0.0
    async with AsyncClient(url) as client:
        await client.open(picture.unseen(mark).data)
        began = time.monotonic() + 1.0
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                # Sessions are made just before they begin, so that few are held at a time.
                await asyncio.sleep(max(0.0, began + session.at_s - 1.0 - time.monotonic()))
                group.create_task(one(client, session))
    seen = []
    for kind, of_kind in rows.items():
        due, ms, hit = (np.array(column) for column in zip(*of_kind, strict=True))
        seen.append(Seen(due, ms, hit.astype(bool), failed[kind]))
    return seen[0], seen[1]


def _encoded(session: AsyncSession) -> bool:
    """Whether the latest click needed its image again."""
    reply = session.last_reply
    return reply is not None and "encode" in reply.timings_ms


def _since(seen: Seen, begin_s: float) -> Seen:
    late = seen.due_s >= begin_s
    return replace(seen, due_s=seen.due_s[late], ms=seen.ms[late], hit=seen.hit[late])
