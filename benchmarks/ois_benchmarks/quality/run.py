"""`ois bench quality`: a robot user clicks through any transport, on engines or on the network.

    data set ─► robot user ◄─► Client(URL) ─► one record per object ─► metrics, table, curve

The loop is SegNext's (`evaluation.py:53-75` with `--print-ious`). The robot makes all clicks, also
after it has succeeded, so every object has an IoU after each of 20 clicks; NoC does not change. A
pixel belongs to the mask if its logit is above 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ois_benchmarks import machine
from ois_benchmarks.contestants.client import PEER, PeerClient
from ois_benchmarks.quality.boundary import Boundary
from ois_benchmarks.quality.datasets import Dataset, Target
from ois_benchmarks.quality.records import Failure, LogWriter, Measured, Skipped
from ois_benchmarks.quality.thinness import thinness
from ois_client.contract.clicks import SLOTS_PER_SIGN, Click
from ois_client.contract.errors import IncompatibleServer, InvalidInput, OISError
from ois_client.contract.images import ImageSource
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session
from ois_client.transports.address import is_server
from ois_network.training.clicks.robot import intersection_over_union, next_robot_click
from ois_network.training.data.collections import SkippedPair

#: After this many failed objects in a row, the cause is the system and not the objects.
MOST_FAILURES = 10
TORCH = "torch:"
_PROGRESS_EVERY_S = 5.0

Say = Callable[[str], None]


class ZoomingClient(Client):
    """A client whose sessions zoom."""

    def open(self, image: ImageSource, *, encode: bool = True, zoom: bool = True) -> Session:
        return super().open(image, encode=encode, zoom=zoom)


def open_client(
    url: str,
    *,
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    checkout: Path | None = None,
    weights: Path | None = None,
    token: str | None = None,
    zoom: bool = False,
) -> Client | PeerClient:
    """Open a client.

    url: any address of `Client`, `torch:CHECKPOINT` for the network itself, or `peer:NAME` for a
    contestant of `ois bench spc`. Options that are None are not passed on, because not every
    transport has them all. token: only for servers; other addresses ignore it, because it may come
    from the environment. zoom: of the sessions; peers have none. Raises what `Client` raises,
    `CheckpointError`, and `NotHere` if a peer's code or packages are missing.
    """
    if url.startswith(PEER):
        if backend is not None or precision is not None:
            raise InvalidInput(
                f"got {url} with a backend or precision; expected neither, a peer's name sets both"
            )
        if zoom:
            raise InvalidInput(f"got {url} with zoom; only sessions of `Client` zoom")
        cores = threads or machine.available_cores()
        name = url.removeprefix(PEER)
        return PeerClient(name, checkout=checkout, weights=weights, threads=cores)
    if checkout is not None or weights is not None:
        raise InvalidInput(f"got {url} with --checkout or --weights; only peer:NAME takes them")
    given: dict[str, Any] = {"backend": backend, "precision": precision, "threads": threads}
    options = {name: value for name, value in given.items() if value is not None}
    if token and is_server(url):
        options["token"] = token
    kind = ZoomingClient if zoom else Client
    if not url.startswith(TORCH):
        return kind(url, **options)
    unknown = sorted(set(options) - {"threads"})
    path = url.removeprefix(TORCH)
    if unknown or not path:
        raise InvalidInput(
            f"got the address {url!r} with {', '.join(unknown) or 'no checkpoint'}; expected "
            "torch:CHECKPOINT, which takes only the option threads"
        )
    from ois_benchmarks.contestants.unrewritten import open_transport

    return kind(open_transport(path, threads=threads))


def header(client: Client | PeerClient, dataset: Dataset, clicks: int) -> dict[str, Any]:
    """The header of a log: data set, clicks, model and machine.

    Raises `InvalidInput` for more clicks than the network has slots per sign.
    """
    if not 1 <= clicks <= SLOTS_PER_SIGN:
        raise InvalidInput(
            f"got {clicks} clicks; expected 1 to {SLOTS_PER_SIGN}, the slots per sign"
        )
    info = client.info
    zoom = {"zoom": True} if isinstance(client, ZoomingClient) else {}
    return {
        "dataset": dataset.describe(),
        "clicks": clicks,
        "model": {
            "network": info.network,
            "engine": info.engine,
            "sha256": info.model_sha256,
            "trained": info.trained,
            "longest": info.longest,
            "preprocess_version": info.preprocess_version,
            **zoom,
        },
        "machine": machine.describe(),
    }


def run(client: Client | PeerClient, dataset: Dataset, writer: LogWriter, say: Say) -> None:
    """Measure the objects that the log does not hold yet, or that failed or were skipped.

    Raises `OISError` if `MOST_FAILURES` objects in a row failed, `IncompatibleServer` if the
    model is replaced during the run, and `OutputError`.
    """
    clicks = writer.log.clicks
    done = {name for name, record in writer.log.measured.items() if record.failure is None}
    if done:
        say(f"{writer.path} holds {len(done)} of {dataset.count} objects; measuring the rest")
        begun, now = writer.log.header["machine"]["commit"], machine.describe()["commit"]
        if begun != now:
            say(f"note: they were measured with commit {begun}, this is {now}")
    progress = Progress(dataset.count - len(done), say)
    in_a_row = 0
    for item in dataset.items():
        if item.name in done:
            continue
        try:
            target = item.load()
        except SkippedPair as error:
            writer.append(Skipped(item.name, error.reason))
            say(f"skipped {item.name}: {error}")
            progress.step(None)
            continue
        record = measure(client, item.name, target, clicks, item.picture)
        writer.append(record)
        progress.step(record)
        failure = record.failure
        in_a_row = in_a_row + 1 if failure else 0
        if failure:
            say(f"failed {item.name} at click {failure.click}: {failure.message} ({failure.code})")
        if failure and in_a_row == MOST_FAILURES:
            raise OISError(
                f"{in_a_row} objects in a row failed, the last one with {failure.code}: "
                f"{failure.message}. The results so far are kept; run the same command to resume"
            )


def measure(
    client: Client | PeerClient, name: str, target: Target, clicks: int, picture: str = ""
) -> Measured:
    """Let the robot user click one object. An `OISError` ends it and becomes part of the record.

    Only `IncompatibleServer` is raised, because it concerns the whole run and not the object.
    """
    started = time.perf_counter()
    mask = np.zeros(target.mask.shape, dtype=np.uint8)
    made: list[Click] = []
    ious: list[float] = []
    right: list[bool] = []
    boundary = Boundary(target.mask)
    boundaries: list[tuple[float, float]] = []
    answered: set[str] = set()
    failure = None
    try:
        session = client.open(target.image)
        for _ in range(clicks):
            click = next_robot_click(target.mask, mask, made)
            made.append(click)
            mask = session.click(click.x, click.y, click.positive)
            ious.append(intersection_over_union(target.mask, mask))
            right.append(bool(mask[int(click.y), int(click.x)]) == click.positive)
            near, paper = boundary.ious(mask)
            boundaries.append((round(near, 5), round(paper, 5)))
            if session.last_reply is not None:
                answered.add(session.last_reply.model_sha256)
    except IncompatibleServer:
        raise
    except OISError as error:
        failure = Failure(len(made), error.code, str(error))
    _check_same_model(client, answered)
    height, width = target.mask.shape
    return Measured(
        name,
        width,
        height,
        int(target.mask.sum()),
        tuple(ious),
        tuple((click.x, click.y, click.positive) for click in made),
        round(time.perf_counter() - started, 3),
        failure,
        picture,
        tuple(right),
        tuple(boundaries),
        round(thinness(target.mask), 3),
    )


def _check_same_model(client: Client | PeerClient, answered: set[str]) -> None:
    """Raise `IncompatibleServer` if another model than at the start has answered.

    A session keeps its model, but the next session may get another one, and a log must not mix
    the results of two models.
    """
    expected = client.info.model_sha256
    if others := answered - {expected, ""}:
        raise IncompatibleServer(
            f"the model was replaced during the run: {expected[:12]}… at the start, "
            f"{min(others)[:12]}… now. Measure again with another output file"
        )


def default_output(client: Client | PeerClient, dataset: Dataset, folder: Path) -> Path:
    """`folder`/quality-DATASET-NETWORK-ENGINE.jsonl, with -zoom if sessions zoom."""
    # Without versions, so that runs of several versions are easy to compare by name.
    words = [word.strip(",") for word in client.info.engine.split() if word[:1].isalpha()]
    if isinstance(client, ZoomingClient):
        words.append("zoom")
    name = "-".join(("quality", dataset.slug, client.info.network, *words))
    return folder / ("".join(c if c.isalnum() or c in ".-_" else "-" for c in name) + ".jsonl")


class Progress:
    """Prints every few seconds how many objects are done, their mean IoU, and the time left."""

    def __init__(self, total: int, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.say, self.clock = total, say, clock
        self.started = self.last = clock()
        self.steps = self.measured = self.failed = 0
        self.sum_first = self.sum_last = 0.0

    def step(self, record: Measured | None) -> None:
        """Count one object. record: None if it was skipped."""
        self.steps += 1
        if record is not None:
            self.measured += 1
            self.failed += record.failure is not None
            self.sum_first += record.ious[0] if record.ious else 0.0
            self.sum_last += record.ious[-1] if record.ious else 0.0
        now = self.clock()
        if self.steps < self.total and now - self.last < _PROGRESS_EVERY_S:
            return
        self.last = now
        pace = (now - self.started) / self.steps
        text = f"{self.steps}/{self.total}"
        if self.measured:
            first, last = self.sum_first / self.measured, self.sum_last / self.measured
            text += f"  mean IoU {first:.3f} after the first click, {last:.3f} after the last"
        failed = f"  {self.failed} failed" if self.failed else ""
        left = _duration(pace * (self.total - self.steps))
        self.say(f"{text}{failed}  {pace:.2f} s/object  left {left}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
