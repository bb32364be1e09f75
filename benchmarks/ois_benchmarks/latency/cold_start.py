"""`ois bench cold-start`: from the start of a process to its first mask.

Each address (`local:...`) is opened by a new Python process, which opens a photograph and clicks
once. `first_mask_s` is what a user waits for: the interpreter's start, imports, loading, encode and
click. The other columns are stages inside the process. A first run, which is not counted, brings
the files into memory.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ois_benchmarks import machine
from ois_benchmarks.table import Column, Table, TableRow
from ois_client.contract.errors import OISError

URLS = ("local:", "local:?backend=openvino", "local:?backend=torch", "local:cuda")

#: Run with `python -c`, so that only what a client needs is imported.
_CHILD = """
import json, sys, time
start = time.perf_counter()
from ois_client.sessions.client import Client
from ois_client.contract.errors import OISError
try:
    client = Client(sys.argv[1])
    loaded = time.perf_counter()
    session = client.open(sys.argv[2])
    encoded = time.perf_counter()
    mask = session.click(session.picture.width / 2, session.picture.height / 2)
    clicked = time.perf_counter()
except OISError as error:
    sys.exit(str(error))
print(json.dumps({"engine": client.info.engine, "load_s": loaded - start,
                  "open_s": encoded - loaded, "click_s": clicked - encoded,
                  "object_px": int(mask.sum())}), flush=True)
"""
STAGES = ("first_mask_s", "load_s", "open_s", "click_s")


def default_photo() -> Path:
    """The shipped photograph that is clicked on."""
    from ois_export.parity.cases import SQUARE, photo_folder

    return photo_folder() / SQUARE.photo


def run(urls: list[str], photo: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """One row per address: medians of `repeats` processes, or the reason why it failed."""
    for url in urls:
        try:
            _once(url, photo)
            runs = [_once(url, photo) for _ in range(repeats)]
        except OISError as error:
            yield {"url": url, "failed": str(error)}
            continue
        medians = {stage: statistics.median(one[stage] for one in runs) for stage in STAGES}
        row = {"url": url, "engine": runs[0]["engine"], "object_px": runs[0]["object_px"]}
        yield {**row, **medians}


def document_of(rows: list[dict[str, Any]], repeats: int) -> dict[str, Any]:
    """The result, JSON-ready."""
    described = machine.describe() | {"load": os.getloadavg()}
    return {"benchmark": "cold-start", "machine": described, "repeats": repeats, "rows": rows}


def table_of(rows: list[dict[str, Any]]) -> Table:
    """One line per address."""
    columns = [Column("address", number=False), Column("engine", number=False)]
    columns += [Column(name) for name in ("first mask s", "load s", "open s", "click s")]
    return Table("", columns, [TableRow(_cells(row)) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    url = f"`{row['url']}`"
    if "failed" in row:
        return [url, row["failed"], *[""] * len(STAGES)]
    return [url, row["engine"], *(f"{row[stage]:.2f}" for stage in STAGES)]


def _once(url: str, photo: Path) -> dict[str, Any]:
    """One process. Raises `OISError` with its last line of stderr if it fails."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, url, str(photo)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if child.stdout is None:
        raise TypeError("the child has no stdout")
    line = child.stdout.readline()
    took = time.perf_counter() - start
    _, complaint = child.communicate()
    if child.returncode:
        raise OISError(complaint.strip().splitlines()[-1] if complaint.strip() else "no answer")
    answer: dict[str, Any] = json.loads(line)
    return {**answer, "first_mask_s": took}
