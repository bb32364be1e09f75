"""Cold start: from the start of a process to its first mask.

    python -m ois_benchmarks.latency.cold_start [--repeats 5] [--output FILE] [URL ...]

Each URL (`local:...`) is opened by a new Python process that opens a photograph and clicks
once. `first_mask_s` is what a person waits: the interpreter's start, imports, loading, encode and
click. The other columns are stages inside the process. The files' pages are in memory after
the first run, which is not counted. The file is written after each row.
"""

from __future__ import annotations

import argparse
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
from ois_benchmarks.latency.engines import save
from ois_client.contract.errors import OISError, OutputError

URLS = ("local:", "local:?backend=openvino", "local:?backend=torch", "local:cuda")

#: Runs as `python -c`, so that nothing but what a client needs is imported.
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


def run(urls: list[str], photo: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """One row a URL: medians of `repeats` processes, or the reason why it does not run."""
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


def _once(url: str, photo: Path) -> dict[str, Any]:
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


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| address | engine | first mask s | load s | open s | click s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| `{row['url']}` | {row['failed']} | | | | |")
            continue
        times = " | ".join(f"{row[stage]:.2f}" for stage in STAGES)
        lines.append(f"| `{row['url']}` | {row['engine']} | {times} |")
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    """Of the command line."""
    from ois_export.parity.cases import SQUARE, photo_folder

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("urls", nargs="*", default=list(URLS), metavar="URL")
    parser.add_argument("--photo", type=Path, default=photo_folder() / SQUARE.photo)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="Write JSON here.")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    if args.repeats < 1 or not args.photo.is_file():
        print(
            f"error: got --repeats {args.repeats} and --photo {args.photo}; expected 1 or more and "
            "a file",
            file=sys.stderr,
        )
        return 2
    about = {"benchmark": "cold-start", "machine": machine.describe() | {"load": os.getloadavg()}}
    rows: list[dict[str, Any]] = []
    try:
        for row in run(args.urls, args.photo, args.repeats):
            rows.append(row)
            if args.output is not None:  # what a time limit cuts off must not take it along
                save({**about, "repeats": args.repeats, "rows": rows}, args.output)
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(rows))
    if all("failed" in row for row in rows):
        print("error: nothing was measured; each row says why", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
