"""`ois bench quality`: the robot user over any transport, engine or network alike.

    dataset ─► robot user ◄─► Client(URL) ─► one record an object ─► metrics, table, curve

The loop is SegNext's with all clicks made (`evaluation.py:53-75` with `--print-ious`): the
robot goes on after a success, so that every object has an IoU after each of 20 clicks, and
NoC is the same as with stopping. A pixel belongs to the mask where its logit is above 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ois_benchmarks import machine
from ois_benchmarks.contestants.client import PEER, PeerClient
from ois_benchmarks.quality.datasets import Dataset, Target
from ois_benchmarks.quality.progress import Progress
from ois_benchmarks.quality.records import Failure, LogWriter, Measured, Skipped
from ois_client.contract.clicks import SLOTS_PER_SIGN, Click
from ois_client.contract.errors import IncompatibleServer, InvalidInput, OISError
from ois_client.sessions.client import Client
from ois_network.training.clicks.robot import intersection_over_union, next_robot_click
from ois_network.training.data.collections import SkippedPair

#: So many failed objects in a row are the system's doing, not the objects'.
MOST_FAILURES = 10
TORCH = "torch:"

Say = Callable[[str], None]


def open_client(
    url: str,
    *,
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    checkout: Path | None = None,
    weights: Path | None = None,
) -> Client | PeerClient:
    """A client of any address that `Client` knows, of `torch:CHECKPOINT`, the network itself, or
    of `peer:NAME`, a contestant of `ois bench spc`.

    Options left None are not passed on: not every transport has all of them. Raises what
    `Client` raises, `CheckpointError`, and `NotHere` for a peer that lacks something.
    """
    if url.startswith(PEER):
        if backend is not None or precision is not None:
            raise InvalidInput(f"got {url} with a backend or precision; a peer's name says both")
        cores = threads or machine.available_cores()
        name = url.removeprefix(PEER)
        return PeerClient(name, checkout=checkout, weights=weights, threads=cores)
    if checkout is not None or weights is not None:
        raise InvalidInput(f"got {url} with --checkout or --weights; they belong to peer:NAME")
    given: dict[str, Any] = {"backend": backend, "precision": precision, "threads": threads}
    options = {name: value for name, value in given.items() if value is not None}
    if not url.startswith(TORCH):
        return Client(url, **options)
    unknown = sorted(set(options) - {"threads"})
    path = url.removeprefix(TORCH)
    if unknown or not path:
        raise InvalidInput(
            f"got the address {url!r} with {', '.join(unknown) or 'no checkpoint'}; expected "
            "torch:CHECKPOINT, which takes no other option than threads"
        )
    from ois_benchmarks.contestants.unrewritten import open_transport

    return Client(open_transport(path, threads=threads))


def header(client: Client | PeerClient, dataset: Dataset, clicks: int) -> dict[str, Any]:
    """What a log says about the run it holds.

    Raises `InvalidInput` for more clicks than the network has slots for one sign.
    """
    if not 1 <= clicks <= SLOTS_PER_SIGN:
        raise InvalidInput(f"got {clicks} clicks; expected 1 to {SLOTS_PER_SIGN}, a sign's slots")
    info = client.info
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
        },
        "machine": machine.describe(),
    }


def run(client: Client | PeerClient, dataset: Dataset, writer: LogWriter, say: Say) -> None:
    """Measure the objects that the log does not hold yet; failed and skipped ones again.

    Raises `OISError` when `MOST_FAILURES` objects in a row failed, `IncompatibleServer` when the
    model is replaced meanwhile, and `OutputError`.
    """
    clicks = writer.log.clicks
    done = {name for name, record in writer.log.measured.items() if record.failure is None}
    if done:
        say(f"{writer.path} holds {len(done)} of {dataset.count} objects; going on with the rest")
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
        record = measure(client, item.name, target, clicks)
        writer.append(record)
        progress.step(record)
        failure = record.failure
        in_a_row = in_a_row + 1 if failure else 0
        if failure:
            say(f"failed {item.name} at click {failure.click}: {failure.message} ({failure.code})")
        if failure and in_a_row == MOST_FAILURES:
            raise OISError(
                f"{in_a_row} objects in a row failed, the last one with {failure.code}: "
                f"{failure.message}. What was measured is kept; the same command goes on"
            )


def measure(client: Client | PeerClient, name: str, target: Target, clicks: int) -> Measured:
    """The robot user on one object. An `OISError` ends it and is part of the record.

    Only `IncompatibleServer` is raised: it says nothing about this object, and all about the run.
    """
    started = time.perf_counter()
    mask = np.zeros(target.mask.shape, dtype=np.uint8)
    made: list[Click] = []
    ious: list[float] = []
    answered: set[str] = set()
    failure = None
    try:
        session = client.open(target.image)
        for _ in range(clicks):
            click = next_robot_click(target.mask, mask, made)
            made.append(click)
            mask = session.click(click.x, click.y, click.positive)
            ious.append(intersection_over_union(target.mask, mask))
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
    )


def _check_same_model(client: Client | PeerClient, answered: set[str]) -> None:
    """A session keeps to one model, but the next session may meet another one.

    Results of two models in one log would be results of none.
    """
    expected = client.info.model_sha256
    if others := answered - {expected, ""}:
        raise IncompatibleServer(
            f"the model was replaced while it was measured: {expected[:12]}… at the start, "
            f"{min(others)[:12]}… now. Measure again with another output"
        )


def default_output(client: Client | PeerClient, dataset: Dataset, folder: Path) -> Path:
    """`folder`/quality-DATASET-NETWORK-ENGINE.jsonl."""
    # Without the versions, so that a later run beside this one is easy to recognise.
    words = [word.strip(",") for word in client.info.engine.split() if word[:1].isalpha()]
    name = "-".join(("quality", dataset.slug, client.info.network, *words))
    return folder / ("".join(c if c.isalnum() or c in ".-_" else "-" for c in name) + ".jsonl")
