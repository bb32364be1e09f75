"""`ois bench paths`: the ways in which a server answers a click, in one run on one machine.

    kept features, own decoder        `ois_segment`, which decodes in its own process
    kept features, Triton's decoder   `ois_segment`, which calls the model `ois_decoder`
    ensemble                          `ois_oneshot`, which keeps nothing and encodes every time

`OIS_DECODER` (`process`, `triton`) chooses between the first two.

Each path has an embedded server of its own, so that its memory can be told apart. All run at the
same time and their clients take turns, so that a disturbance affects all of them. Two things are
timed over gRPC: a click on an image that was opened before (which the ensemble has to encode
again), and the first answer for an image that the server has never seen.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks import machine
from ois_benchmarks.latency.overhead import WARM_UP, difference, spread
from ois_benchmarks.load.pictures import LoadPicture, read_pictures
from ois_benchmarks.table import Column, Table, TableRow
from ois_benchmarks.timing import Bystanders
from ois_client import Client
from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.sessions.session import Session
from ois_export.repository import write_repository
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.manifest import Manifest

#: Path -> (OIS_DECODER, whether it is the ensemble).
PATHS: Mapping[str, tuple[str, bool]] = {
    "kept features, own decoder": ("process", False),
    "kept features, Triton's decoder": ("triton", False),
    # The decoder of `ois_segment` is loaded too, as on a server that serves both paths.
    "ensemble": ("process", True),
}
_REFERENCE = "kept features, own decoder"
_DECODER = "OIS_DECODER"
_MIB = 2**20


@dataclass(slots=True)
class PathClient:
    """One path: its server, its client, and what was measured.

    click_ms, answer_ms: the times of clicks on an open image, and of first answers.
    """

    server: EmbeddedServer
    client: Client
    ensemble: bool
    started_mib: dict[str, float]
    session: Session | None = None
    picture: LoadPicture | None = None
    click_ms: list[float] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)

    def open(self, picture: LoadPicture) -> None:
        self.picture = picture
        if not self.ensemble:
            self.session = self.client.open(picture.data)

    def click(self, x: float, y: float) -> NDArray[np.uint8]:
        """Click on the open image. The click is undone, so that every click costs the same."""
        if self.picture is None:
            raise InvalidInput("got a click before an image was opened")
        if self.session is None:
            return self.client.segment(self.picture.data, [Click(x, y)]).masks[0]
        mask = self.session.click(x, y)
        self.session.undo()
        return mask

    def answer(self, picture: LoadPicture, x: float, y: float) -> None:
        """One click on an image that the server has never seen."""
        if self.ensemble:
            self.client.segment(picture.data, [Click(x, y)])
        else:
            self.client.open(picture.data).click(x, y)

    def summary(self) -> dict[str, Any]:
        return {
            "click": spread(self.click_ms),
            "answer": spread(self.answer_ms),
            "memory_mib": {"started": self.started_mib, "after": memory_mib(self.server)},
            "server_restarts": self.server.restarts,
        }


def run(
    engines: Path, *, clicks: int, images: int, in_a_row: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure, and return the result. clicks, images: per path.

    Raises `InvalidInput` for too small numbers or engines that do not run on a CPU, and
    `EngineError` if the server does not run on this machine or two paths give different masks.
    """
    if clicks < 2 or images < 2 or in_a_row < 1:
        raise InvalidInput(
            f"got {clicks} clicks, {in_a_row} in a row, and {images} images; expected at least 2, "
            "1 and 2"
        )
    manifest = Manifest.load(engines)
    if manifest.target != "cpu":
        raise InvalidInput(
            f"got engines for {manifest.target}; expected engines for cpu, which the embedded "
            "server can run"
        )
    others = Bystanders.before(say)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ois-bench-"))
        repository = write_repository(engines, manifest, Path(folder))
        paths = {}
        for name in PATHS:
            say(f"starting the server of: {name}")
            paths[name] = stack.enter_context(_started(repository, name))
        picture = read_pictures()[0]
        say(f"{clicks} clicks and {images} first answers by each path")
        _click_in_turns(paths, picture, clicks, in_a_row)
        _answer_in_turns(paths, picture, images)
        found = {name: path.summary() for name, path in paths.items()}
    return {
        "benchmark": "serving-paths",
        "network": manifest.name,
        "trained": manifest.trained,
        "image": f"{picture.width}x{picture.height}",
        "machine": machine.describe(),
        **others.after(),
        "in_a_row": in_a_row,
        "paths": found,
        "more_than_own_decoder": {
            name: {
                "click": difference(path.click_ms, paths[_REFERENCE].click_ms),
                "answer": difference(path.answer_ms, paths[_REFERENCE].answer_ms),
            }
            for name, path in paths.items()
            if name != _REFERENCE
        },
    }


def memory_mib(server: EmbeddedServer) -> dict[str, float]:
    """Process -> MiB of the server's own memory: anonymous, and its share of shared memory.

    Mapped files, such as libraries, are not counted: all servers of this machine share them.
    """
    found: dict[str, float] = {}
    processes = {pid: _model_of(command) for pid, command in server.python_models().items()}
    if server.pid is not None:
        processes[server.pid] = "tritonserver"
    for pid, name in processes.items():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
        kib = int(sizes.get("Pss_Anon", 0)) + int(sizes.get("Pss_Shmem", 0))
        found[name] = round(kib * 1024 / _MIB, 1)
    return {"total": round(sum(found.values()), 1), **dict(sorted(found.items()))}


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """Time and memory of each path, and its time over the first one."""
    paths = [
        TableRow(
            [
                name,
                *(
                    cell
                    for kind in ("click", "answer")
                    for cell in (
                        f"{row[kind]['median_ms']:.2f}",
                        f"{row[kind]['low_ms']:.2f} to {row[kind]['high_ms']:.2f}",
                        f"{row[kind]['p99_ms']:.2f}",
                    )
                ),
                f"{row['memory_mib']['started']['total']:.0f}",
                f"{row['memory_mib']['after']['total']:.0f}",
            ]
        )
        for name, row in result["paths"].items()
    ]
    more = [
        TableRow(
            [
                name,
                *(
                    f"{row[kind]['median_ms']:+.2f} ({row[kind]['low_ms']:+.2f} to "
                    f"{row[kind]['high_ms']:+.2f})"
                    for kind in ("click", "answer")
                ),
            ]
        )
        for name, row in result["more_than_own_decoder"].items()
    ]
    groups = ("click on an open image, ms", "first answer for a new image, ms")
    columns = [
        Column("path", number=False),
        *(Column(name, group) for group in groups for name in ("median", "95 % interval", "p99")),
        *(Column(name, "memory of the server, MiB") for name in ("started", "after the run")),
    ]
    noisy = "Other programs used the cores during the run: this is not a clean measurement."
    return [
        Table("", columns, paths),
        Table(
            "",
            [Column(f"more than: {_REFERENCE}", number=False), *map(Column, groups)],
            more,
            [noisy] if result["noisy"] else [],
        ),
    ]


@contextmanager
def _started(repository: Path, name: str) -> Iterator[PathClient]:
    """A running server with the decoder of the path, and a client of it."""
    decoder, ensemble = PATHS[name]
    with ExitStack() as stack:
        with _environment(_DECODER, decoder):
            server = stack.enter_context(EmbeddedServer(repository, ServerOptions()))
        started_mib = memory_mib(server)
        yield PathClient(
            server, stack.enter_context(Client(server.grpc_url)), ensemble, started_mib
        )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _click_in_turns(
    paths: Mapping[str, PathClient], picture: LoadPicture, count: int, in_a_row: int
) -> None:
    """`count` clicks by each path on the same places, in turns of `in_a_row`.

    The first click of a turn is not counted: other programs have filled the processor's caches.
    """
    size = (picture.width, picture.height)
    places = np.random.default_rng(0).uniform(0.1, 0.9, (count, 2)) * size
    for path in paths.values():
        path.open(picture)
        for _ in range(WARM_UP):
            path.click(*places[0])
    masks = {name: path.click(*places[0]) for name, path in paths.items()}
    for name, mask in masks.items():
        if (mask != masks[_REFERENCE]).any():
            raise EngineError(
                f"the paths {name!r} and {_REFERENCE!r} give different masks for one click; "
                "expected equal ones. Export the engines again"
            )
    for turn, start in enumerate(range(0, count, in_a_row)):
        for path in _rotated(list(paths.values()), turn):
            path.click(*places[start - 1])
            for x, y in places[start : start + in_a_row]:
                began = time.perf_counter()
                path.click(x, y)
                path.click_ms.append((time.perf_counter() - began) * 1e3)


def _answer_in_turns(paths: Mapping[str, PathClient], picture: LoadPicture, count: int) -> None:
    """`count` first answers by each path, for copies of the picture with new digests."""
    x, y = picture.width / 2, picture.height / 2
    for number in range(count + 1):
        unseen = picture.unseen(f"answer {number}")
        for path in _rotated(list(paths.values()), number):
            began = time.perf_counter()
            path.answer(unseen, x, y)
            if number:  # the first one warms up
                path.answer_ms.append((time.perf_counter() - began) * 1e3)


def _rotated(paths: list[PathClient], turn: int) -> list[PathClient]:
    first = turn % len(paths)
    return paths[first:] + paths[:first]


def _model_of(command: str) -> str:
    """The name of the model that a process runs, from its command line, which names an instance."""
    found = re.search(r"(ois_[a-z]+)_\d+_\d+", command)
    return found[1] if found else command[:40]
