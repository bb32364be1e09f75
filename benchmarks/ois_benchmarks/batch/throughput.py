"""`ois bench batch`: images per second of `ois annotate` and `ois encode`, alone and on Ray.

Every command runs as users run it, as a process of its own, on two numbers of images:

    images_per_s = (n2 - n1) / (t2 - t1)      start_s = t1 - n1 / images_per_s

so that the start (interpreter, engines, Ray) is told apart from the work. Each time is the shortest
of the repetitions, because other programs can only make a run longer. The images are the shipped
photographs with another comment in each copy, so that each has a digest of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ois_benchmarks import machine
from ois_benchmarks.load.pictures import read_pictures
from ois_benchmarks.table import Column, Table, TableRow, format_number
from ois_benchmarks.timing import Bystanders
from ois_client.contract.errors import EngineError, InvalidInput
from ois_runtime.engines.manifest import Manifest

TASKS = ("annotate", "encode")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """images: the two numbers of images. clicks: on one object per image. workers: the numbers of
    Ray's workers, one thread each. repeats: of each command. Raises `InvalidInput` if a value is
    not possible."""

    images: tuple[int, int] = (40, 160)
    clicks: int = 3
    workers: tuple[int, ...] = (1, 2)
    repeats: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.images[0] < self.images[1]:
            raise InvalidInput(f"got the images {self.images}; expected two rising numbers")
        if min((self.clicks, self.repeats, *self.workers)) < 1 or self.clicks > 24:
            raise InvalidInput(
                f"got {self.clicks} clicks, {self.repeats} repeats and {self.workers} workers; "
                "expected at least 1 of each, and at most 24 clicks"
            )

    def ways(self) -> Iterator[tuple[str, int, list[str]]]:
        """(name, threads of all workers, options of the command) of each way to run."""
        cores = machine.available_cores()
        yield "one process", cores, ["--threads", str(cores)]
        if cores > 1:
            yield "one process, one thread", 1, ["--threads", "1"]
        for count in self.workers:
            words = ["--ray", "local", "--workers", str(count), "--threads", "1"]
            yield f"Ray, {count} worker{'s' if count > 1 else ''}", count, words


def run(
    engines: Path, plan: BatchPlan, command: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure -> the document. command: how to run `ois`, as words.

    Raises `EngineError` with what a command printed if it fails.
    """
    manifest = Manifest.load(engines)
    bystanders = Bystanders.before(say)
    rows = []
    with tempfile.TemporaryDirectory(prefix="ois-batch-") as name:
        folder = Path(name)
        lists = [_write_input(folder, count, plan.clicks) for count in plan.images]
        for task in TASKS:
            for way, threads, options in plan.ways():
                say(f"{task}: {way}")
                times = [
                    min(
                        _once(task, one, engines, folder / "out", [*command], options)
                        for _ in range(plan.repeats)
                    )
                    for one in lists
                ]
                rows.append(_row(task, way, threads, plan.images, times))
    return {
        "benchmark": "batch",
        "network": manifest.name,
        "model_sha256": manifest.model_sha256,
        "trained": manifest.trained,
        "clicks_per_image": plan.clicks,
        "images": list(plan.images),
        "repeats": plan.repeats,
        "machine": machine.describe(),
        **bystanders.after(),
        "rows": rows,
    }


def table(document: dict[str, Any]) -> str:
    """The rows as Markdown."""
    columns = [
        Column("task", number=False),
        Column("run by", number=False),
        Column("threads"),
        Column("images per second"),
        Column("beside one process"),
        Column("start, s"),
    ]
    alone = {row["task"]: row["images_per_s"] for row in reversed(document["rows"])}
    rows = [
        TableRow(
            [
                row["task"],
                row["way"],
                str(row["threads"]),
                format_number(row["images_per_s"]),
                f"{row['images_per_s'] / alone[row['task']]:.2f}x",
                f"{row['start_s']:.1f}",
            ]
        )
        for row in document["rows"]
    ]
    return Table("", columns, rows).markdown()


def _write_input(folder: Path, count: int, clicks: int) -> Path:
    """A file of clicks on `count` new images -> its path."""
    place = folder / str(count)
    place.mkdir()
    pictures = read_pictures()
    lines = []
    for number in range(count):
        picture = pictures[number % len(pictures)].unseen(f"{count}-{number}")
        (place / f"{number}.jpg").write_bytes(picture.data)
        x, y = picture.width // 2, picture.height // 2
        points = [[x + 7 * turn % (x // 2), y] for turn in range(clicks)]
        lines.append(json.dumps({"image": f"{number}.jpg", "points": points}))
    path = place / "clicks.jsonl"
    path.write_text("\n".join(lines))
    return path


def _once(
    task: str, given: Path, engines: Path, out: Path, command: list[str], options: list[str]
) -> float:
    """Seconds of one command. Its output is removed."""
    if task == "annotate":
        words = ["annotate", str(given), "-o", f"{out}.json", "--url", f"local:{engines}"]
    else:
        words = ["encode", str(given), "--output", str(out), "--engines", str(engines)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, *words, *options, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | machine.ALLOCATOR_ENVIRONMENT,
    )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise EngineError(f"ois {' '.join(words[:1])} failed: {done.stderr.strip()[-2000:]}")
    if task == "annotate":
        Path(f"{out}.json").unlink()
    else:
        for path in out.iterdir():
            path.unlink()
        out.rmdir()
    return seconds


def _row(
    task: str, way: str, threads: int, images: tuple[int, int], times: list[float]
) -> dict[str, Any]:
    if times[1] <= times[0]:
        raise EngineError(
            f"{task}, {way}: {images[1]} images took {times[1]:.1f} s, not longer than {images[0]} "
            f"({times[0]:.1f} s). Use more images or a quieter machine"
        )
    rate = (images[1] - images[0]) / (times[1] - times[0])
    return {
        "task": task,
        "way": way,
        "threads": threads,
        "seconds": [round(one, 3) for one in times],
        "images_per_s": round(rate, 4),
        "start_s": round(times[0] - images[0] / rate, 3),
    }
