"""`ois bench region`: the time of a click over the object's share of the picture.

A box of the picture's own shape, in its middle, stands for the object: the decoder is told to
decode it and nothing else, so random weights are enough. A click is all that `ois bench spc` counts
as one: from the clicks to the mask at the picture's own size. Each engine runs in its own process:

    python -m ois_benchmarks.latency.region JOB      prints one line of JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ois_benchmarks import machine, plotting
from ois_benchmarks.contestants.regions import box_around
from ois_benchmarks.latency.engine_worker import inputs
from ois_benchmarks.latency.result import Definition, read_result
from ois_benchmarks.machine import ALLOCATOR_ENVIRONMENT
from ois_benchmarks.table import Column, Table, TableRow
from ois_benchmarks.timing import measure
from ois_client.contract.errors import EngineError, OISError
from ois_client.contract.transport import Region
from ois_runtime.engines.region.boxes import Box

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Of the picture's area.
SHARES = (0.02, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0)
ENGINES = ("openvino-bf16", "openvino-fp32", "onnxruntime-fp32")
#: Above this share of patches, engines decode everything at once.
_WHOLE = 0.999


def run(
    *,
    network: str,
    checkpoint: Path | None,
    size: tuple[int, int],
    engines: Sequence[str],
    shares: Sequence[float],
    repeats: int,
    threads: int,
    peers: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure, and return the result. An engine that fails becomes a row with the reason.

    size: (width, height) of the picture. engines: of `ENGINES`. peers: a result of `ois bench spc`,
    whose contestants at this size become flat lines. Raises `EngineError` if the network cannot be
    exported.
    """
    flat = [] if peers is None else flat_lines(peers, size)
    rows = []
    with tempfile.TemporaryDirectory(prefix="ois-bench-region-") as scratch:
        folder = Path(scratch)
        say("exporting the engines once, without a parity check")
        export = {"network": network, "checkpoint": str(checkpoint) if checkpoint else None}
        exported = _worker({"folder": scratch, "export": export}, threads)
        if "failed" in exported:
            raise EngineError(f"the network could not be exported: {exported['failed']}")
        for engine in engines:
            say(f"{engine} on {size[0]}x{size[1]}")
            job = {
                "folder": str(folder),
                "engine": engine,
                "size": list(size),
                "shares": list(shares),
                "repeats": repeats,
                "threads": threads,
            }
            row = {"engine": engine, **_worker(job, threads)}
            rows.append(row)
            say(f"  {_line(row)}")
    here = {**machine.describe(), "allocator": ALLOCATOR_ENVIRONMENT, "threads": threads}
    return {
        "benchmark": "region",
        "network": network if checkpoint is None else checkpoint.stem,
        "weights": "random" if checkpoint is None else "checkpoint",
        "picture": list(size),
        "machine": here,
        "rows": rows,
        "peers": flat,
    }


def flat_lines(path: Path, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Seconds per click of the contestants in a result of `ois bench spc`, at one picture size."""
    found = []
    for row in read_result(path).rows:
        if row.identity is not None and row.identity.family == "ois":
            continue  # the curve itself
        figure = row.figures.get(Definition.CLICK)
        if row.failed is None and figure is not None and (row.width, row.height) == size:
            label = row.contestant if row.identity is None else row.identity.label
            found.append({"contestant": row.contestant, "label": label, "click_s": figure.seconds})
    return found


def work(job: Mapping[str, Any]) -> dict[str, Any]:
    """Export the engines, or measure one of them. Returns the JSON-ready row."""
    from ois_runtime.engines.backends import (
        EngineBackend,
        EngineOptions,
        Precision,
        load_engines,
        load_region_engines,
    )
    from ois_runtime.engines.pixels import postprocess, preprocess

    folder = Path(job["folder"])
    if "export" in job:
        _export(folder, **job["export"])
        return {}
    name, _, precision = job["engine"].rpartition("-")
    backend = EngineBackend.parse(name)
    options = EngineOptions(
        threads=job["threads"], precision=Precision.parse(precision), region=Region.FULL
    )
    engines = load_region_engines(folder, backend, options)
    width, height = job["size"]
    network = engines.manifest.fit(width, height)
    _, image, prompts = inputs(engines.manifest.fit, network.network_width, network.network_height)
    pixels = np.zeros((height, width, 3), np.uint8)
    _, geometry = preprocess(pixels, engines.manifest.fit)
    state = engines.encode(image, geometry)
    grid = geometry.grid_height, geometry.grid_width
    curve = []
    for share in job["shares"]:
        box = box_around(np.zeros((0, 2)), grid, share)
        whole = share >= _WHOLE

        def click(box: Box = box, whole: bool = whole) -> None:
            if whole:
                logits, _ = engines.decode(state, prompts)
            else:
                logits = engines.decode_region(state, prompts, boxes=[[box]]).logits
            postprocess(logits, geometry)

        started = time.perf_counter()
        click()  # engines prepare themselves for each new size
        first_s = time.perf_counter() - started
        timing = measure(click, repeats=job["repeats"], warmup=2)
        decoded = engines.decode_region(state, prompts, boxes=[[box]]).boxes[0] or ()
        patches = sum(each.rows * each.columns for each in decoded)
        curve.append(
            {
                "share": share,
                "decoded_share": round(patches / (grid[0] * grid[1]), 4),
                "first_s": first_s,
                "click": timing.to_dict(),
            }
        )
    plain = load_engines(folder, backend, options)
    state = plain.encode(image, geometry)
    full = measure(
        lambda: postprocess(plain.decode(state, prompts)[0], geometry),
        repeats=job["repeats"],
        warmup=3,
    )
    return {"engine": job["engine"], "full": full.to_dict(), "curve": curve}


def _export(folder: Path, network: str, checkpoint: str | None) -> None:
    from ois_benchmarks.contestants.prepared import write_network

    given = None if checkpoint is None else Path(checkpoint)
    write_network(folder, network, given, exported=True, region=True)


def _worker(job: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """The answer of a process of its own, or why it failed."""
    command = [sys.executable, "-m", "ois_benchmarks.latency.region", json.dumps(job)]
    environment = {**os.environ, **ALLOCATOR_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"failed": reason[0]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _line(row: Mapping[str, Any]) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    points = (f"{p['share']:.0%} {p['click']['median_s'] * 1e3:.1f}" for p in row["curve"])
    return f"whole {row['full']['median_s'] * 1e3:.1f} ms; regions, ms: {', '.join(points)}"


#: Labels of lines are at least this factor apart.
_LABEL_GAP = 1.28


def table_of(result: Mapping[str, Any]) -> Table:
    """Milliseconds per click: an engine per row, a share of the picture per column."""
    measured = [row for row in result["rows"] if "failed" not in row]
    shares = [point["share"] for point in measured[0]["curve"]] if measured else []
    columns = [Column("engine", number=False), Column("whole")]
    columns += [Column(f"{share:.0%}") for share in shares]
    rows = []
    for row in result["rows"]:
        if "failed" in row:
            rows.append(TableRow([row["engine"], row["failed"], *([""] * len(shares))]))
            continue
        clicks = [row["full"], *(point["click"] for point in row["curve"])]
        rows.append(TableRow([row["engine"], *(f"{c['median_s'] * 1e3:.1f}" for c in clicks)]))
    for peer in result["peers"]:
        rows.append(TableRow([peer["label"], f"{peer['click_s'] * 1e3:.1f}", *[""] * len(shares)]))
    return Table("milliseconds per click, by the share of the picture", columns, rows)


@plotting.styled
def draw(result: Mapping[str, Any]) -> Figure:
    """Milliseconds per click over the object's share of the picture, with peers as flat lines."""
    figure, axes = plotting.new_axes(420, width=860, left=70, right=330, top=24, bottom=54)
    measured = [row for row in result["rows"] if "failed" not in row]
    labels: list[tuple[float, str, str]] = []
    for row, colour in zip(measured, plotting.SERIES, strict=False):
        shares = [100 * point["share"] for point in row["curve"]]
        times = [1e3 * point["click"]["median_s"] for point in row["curve"]]
        axes.plot(shares, times, "o-", markersize=4, color=colour)
        whole = 1e3 * row["full"]["median_s"]
        axes.plot([0, 100], [whole, whole], "--", linewidth=1, color=colour)
        labels.append((times[-1], row["engine"], colour))
    for peer in result["peers"]:
        time = 1e3 * peer["click_s"]
        axes.plot([0, 100], [time, time], ":", linewidth=1.5, color=plotting.GREY)
        labels.append((time, peer["label"], plotting.GREY))
    axes.set_xlim(0, 100)
    axes.set_yscale("log")  # a peer can be forty times as slow as another
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    place = 0.0
    for time, text, colour in sorted(labels):  # upwards, and not over each other
        place = max(place * _LABEL_GAP, time)
        axes.annotate(text, (101, place), color=colour, annotation_clip=False, va="center")
    axes.set_xlabel("the object's box, % of the picture")
    axes.set_ylabel("ms per click")
    return figure


def svg_of(result: Mapping[str, Any]) -> str:
    """`draw` as an SVG document."""
    size = "x".join(map(str, result["picture"]))
    return plotting.to_svg(
        draw(result),
        f"Milliseconds per click of {result['network']} on a {size} picture, over the share of the "
        "picture that the object's box covers; dashed: the whole picture decoded.",
        "A click costs what its object costs",
    )


def main(job: str) -> int:
    """Run one job, given as JSON. Returns the exit code of the process."""
    try:
        print(json.dumps(work(json.loads(job))))
    except OISError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
