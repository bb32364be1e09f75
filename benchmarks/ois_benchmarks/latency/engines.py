"""`ois bench engines`: one network in every engine, encode and click, in one run.

    torch-unrewritten   the network as the paper describes it
    torch               the same after the exact rewrites, channels last
    onnxruntime         the exported engines, fp32
    openvino-f32        the same files on OpenVINO
    openvino-bf16       the same files, bfloat16 arithmetic where the processor has it

Every contestant runs in a process of its own with the same allocator setting and thread
count, on the same picture and clicks, with the same random weights; logits and masks are
compared with the first one's. Random weights are enough for time; what bf16 does to masks of
a *trained* network is another question, and `--checkpoint` answers it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks import machine
from ois_benchmarks.contestants.base import CHECKPOINT
from ois_benchmarks.machine import ALLOCATOR_ENVIRONMENT
from ois_client.contract.errors import OISError, OutputError

CONTESTANTS = ("torch-unrewritten", "torch", "onnxruntime", "openvino-f32", "openvino-bf16")
RESULTS = Path("benchmarks/results")


def run(
    *,
    network: str,
    checkpoint: Path | None,
    sizes: list[tuple[int, int]],
    contestants: list[str],
    repeats: int,
    threads: int,
    say: Any = lambda text: print(text, file=sys.stderr),
) -> dict[str, Any]:
    """Measure; a contestant that fails becomes a row with its reason."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ois-bench-") as scratch:
        folder = Path(scratch)
        source = prepare(folder, network, checkpoint, say)
        for width, height in sizes:
            for contestant in contestants:
                say(f"{contestant} at {width}x{height}")
                row = _worker(folder, source, contestant, (width, height), repeats, threads)
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


def prepare(
    folder: Path, network: str, checkpoint: Path | None, say: Any, *, exported: bool = True
) -> Path:
    """A checkpoint inside `folder`, and its engines if `exported`; returns its path."""
    if exported:
        say("exporting the engines once (parity is `ois export`'s business)")
    command = [sys.executable, "-m", "ois_benchmarks.latency.engine_worker", "prepare", str(folder)]
    command += [str(checkpoint)] if checkpoint else ["--network", network]
    command += [] if exported else ["--checkpoint-only"]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(None))
    if done.returncode:
        raise OISError(f"could not prepare the engines: {done.stderr.strip()[-2000:]}")
    return folder / CHECKPOINT


def _worker(
    folder: Path,
    source: Path,
    contestant: str,
    size: tuple[int, int],
    repeats: int,
    threads: int,
) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "ois_benchmarks.latency.engine_worker", "measure", str(folder)),
        *(str(source), "--contestant", contestant, "--size", f"{size[0]}x{size[1]}"),
        *("--repeats", str(repeats), "--threads", str(threads)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(threads))
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"failed": reason[0]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _environment(threads: int | None) -> dict[str, str]:
    environment = {**os.environ, **ALLOCATOR_ENVIRONMENT}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def _compare(rows: list[dict[str, Any]], folder: Path, size: tuple[int, int]) -> None:
    """Add each contestant's difference from the first that ran, and its speed-ups."""
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
    noisy = " (machine was not quiet)" if row["click"]["noisy"] or row["encode"]["noisy"] else ""
    return (
        f"encode {row['encode']['median_s']:.3f} s, click {row['click']['median_s']:.3f} s, "
        f"peak {row['peak_memory_bytes'] / 2**30:.2f} GiB{noisy}"
    )


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    lines = [
        "| engine | size | encode s | click s | peak GiB | state MB | logit rms error | mask IoU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        head = f"| {row['contestant']} | {row['width']}x{row['height']} |"
        if "failed" in row:
            lines.append(f"{head} {row['failed']} | | | | | |")
            continue
        lines.append(
            f"{head} {row['encode']['median_s']:.2f} | {row['click']['median_s']:.3f} "
            f"| {row['peak_memory_bytes'] / 2**30:.2f} | {row['state_bytes'] / 1e6:.0f} "
            f"| {row['logit_error_rms']:.1e} | {row['mask_iou']:.4f} |"
        )
    return "\n".join(lines)


def save(result: dict[str, Any], path: Path) -> None:
    """Write the JSON in one step. Raises `OutputError`."""
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(result, indent=1) + "\n")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OutputError(f"could not write {path}: {error}") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="vitb")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--size", action="append", help="network pixels, WIDTHxHEIGHT")
    parser.add_argument("--contestant", action="append", choices=CONTESTANTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=machine.available_cores())
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    sizes = [_size(text) for text in args.size or ("1022x1022", "1022x574")]
    try:
        result = run(
            network=args.network,
            checkpoint=args.checkpoint,
            sizes=sizes,
            contestants=args.contestant or list(CONTESTANTS),
            repeats=args.repeats,
            threads=args.threads,
        )
        output = args.output or RESULTS / f"engines-{result['network']}-cpu.json"
        save(result, output)
    except OISError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(result))
    print(f"written to {output}", file=sys.stderr)
    return 0


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise SystemExit(f"error: got the size {text!r}; expected WIDTHxHEIGHT, as 1022x574")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
