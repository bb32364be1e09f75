"""`ois bench engines`: time the encode and the click of one network in every engine.

    torch-unrewritten   the network as the paper describes it
    torch               the same with the exact rewrites, channels last
    onnxruntime         the exported engines, fp32
    openvino-fp32       the same files on OpenVINO
    openvino-bf16       the same files, with bf16 arithmetic if the processor supports it

Each engine runs in its own process, with the same allocator settings, thread count, image, clicks
and weights. Logits and masks are compared with those of the first engine. Random weights are enough
for timing. To see what bf16 does to the masks of a trained network, measure its checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks import machine
from ois_benchmarks.contestants.base import CHECKPOINT
from ois_benchmarks.contestants.prepared import OisEngines
from ois_benchmarks.machine import ALLOCATOR_ENVIRONMENT
from ois_benchmarks.table import Column, Table, TableRow

CONTESTANTS = ("torch-unrewritten", "torch", "onnxruntime", "openvino-fp32", "openvino-bf16")


def run(
    *,
    network: str,
    checkpoint: Path | None,
    sizes: list[tuple[int, int]],
    contestants: list[str],
    repeats: int,
    threads: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure, and return the result. An engine that fails becomes a row with the reason.

    sizes: (width, height) in network pixels. contestants: of `CONTESTANTS`. Raises `EngineError` if
    the network cannot be exported.
    """
    rows: list[dict[str, Any]] = []
    with OisEngines(network, checkpoint, say) as engines:
        folder = engines.folder(exported=True)
        for width, height in sizes:
            for contestant in contestants:
                say(f"{contestant} at {width}x{height}")
                row = _worker(folder, contestant, (width, height), repeats, threads)
                rows.append({"contestant": contestant, "width": width, "height": height, **row})
                say(f"  {_line(row)}")
            _compare(rows, folder, (width, height))
    environment = {**machine.describe(), "allocator": ALLOCATOR_ENVIRONMENT, "threads": threads}
    return {
        "benchmark": "engines",
        "network": network if checkpoint is None else checkpoint.stem,
        "weights": "random" if checkpoint is None else "checkpoint",
        "machine": environment,
        "rows": rows,
    }


def _worker(
    folder: Path, contestant: str, size: tuple[int, int], repeats: int, threads: int
) -> dict[str, Any]:
    """The figures of one engine, or why it failed."""
    job = {
        "folder": str(folder),
        "checkpoint": str(folder / CHECKPOINT),
        "contestant": contestant,
        "width": size[0],
        "height": size[1],
        "repeats": repeats,
        "threads": threads,
    }
    command = [sys.executable, "-m", "ois_benchmarks.latency.engine_worker", json.dumps(job)]
    environment = {**os.environ, **ALLOCATOR_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"failed": reason[0]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _compare(rows: list[dict[str, Any]], folder: Path, size: tuple[int, int]) -> None:
    """Add to each row the differences of its logits and masks from the first engine that ran."""
    here = [r for r in rows if (r["width"], r["height"]) == size and "failed" not in r]
    if not here:
        return
    reference = _logits(folder, here[0]["contestant"], size)
    for row in here:
        logits = _logits(folder, row["contestant"], size)
        difference = np.abs(logits - reference)
        row["logit_error_max"] = float(difference.max() / np.abs(reference).max())
        row["logit_error_rms"] = float(np.sqrt((difference**2).mean()) / reference.std())
        union = ((logits > 0) | (reference > 0)).sum()
        row["mask_iou"] = float(((logits > 0) & (reference > 0)).sum() / union) if union else 1.0


def _logits(folder: Path, contestant: str, size: tuple[int, int]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = np.load(folder / f"{contestant}-{size[0]}x{size[1]}.npy")
    return logits


def _line(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    noisy = (
        " (the machine was not quiet)" if row["click"]["noisy"] or row["encode"]["noisy"] else ""
    )
    return (
        f"encode {row['encode']['median_s']:.3f} s, click {row['click']['median_s']:.3f} s, "
        f"peak {row['peak_memory_bytes'] / 2**30:.2f} GiB{noisy}"
    )


def table_of(result: Mapping[str, Any]) -> Table:
    """One line per engine and size."""
    names = ("encode s", "click s", "peak GiB", "state MB", "logit rms error", "mask IoU")
    columns = [Column("engine", number=False), Column("size"), *map(Column, names)]
    return Table("", columns, [TableRow(_cells(row)) for row in result["rows"]])


def _cells(row: Mapping[str, Any]) -> list[str]:
    head = [row["contestant"], f"{row['width']}x{row['height']}"]
    if "failed" in row:
        return [*head, row["failed"], *[""] * 5]
    return [
        *head,
        *(f"{row['encode']['median_s']:.2f}", f"{row['click']['median_s']:.3f}"),
        *(f"{row['peak_memory_bytes'] / 2**30:.2f}", f"{row['state_bytes'] / 1e6:.0f}"),
        *(f"{row['logit_error_rms']:.1e}", f"{row['mask_iou']:.4f}"),
    ]
