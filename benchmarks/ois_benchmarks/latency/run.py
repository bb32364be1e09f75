"""The run of `ois bench spc` and `ois bench sat`: one contestant after another, one row each.

Every row is written to disk before the next begins, so an interrupted run loses at most one
contestant and can be resumed. A contestant that fails, or for which something is missing, becomes a
row with the reason.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ois_benchmarks import machine
from ois_benchmarks.contestants.base import Place
from ois_benchmarks.contestants.prepared import OisEngines
from ois_benchmarks.contestants.registry import (
    CONTESTANTS,
    peer_of,
    wants_export,
    wants_regions,
)
from ois_benchmarks.contestants.session import TOKEN_VARIABLE
from ois_benchmarks.latency.result import Benchmark, LatencyResult, LatencyRow, read_result
from ois_benchmarks.latency.work import Work
from ois_benchmarks.latency.worker import job_of
from ois_benchmarks.machine import ALLOCATOR_ENVIRONMENT
from ois_benchmarks.results import write_result
from ois_benchmarks.timing import QUIET_SHARE, busy_share
from ois_client.contract.errors import InvalidInput
from ois_client.transports.address import is_server

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPlan:
    """What to measure.

    work: one entry per picture. network: OIS's preset, with random weights; checkpoint: measure
    this network instead. plans: its TensorRT engines. checkouts, weights: by peer. token: of the
    servers among the contestants.
    """

    benchmark: Benchmark
    contestants: tuple[str, ...]
    work: tuple[Work, ...]
    threads: int
    device: str = "cpu"
    network: str = "vitb"
    checkpoint: Path | None = None
    plans: Path | None = None
    checkouts: Mapping[str, Path] = field(default_factory=dict)
    weights: Mapping[str, Path] = field(default_factory=dict)
    token: str | None = field(default=None, repr=False)

    def settings(self) -> dict[str, Any]:
        """The settings that must be equal before rows are added to a file."""
        works = [asdict(work) for work in self.work]
        return {
            "network": self.network if self.checkpoint is None else self.checkpoint.stem,
            "threads": self.threads,
            "device": self.device,
            "pictures": [f"{work.width}x{work.height}" for work in self.work],
            "work": {name: value for name, value in works[0].items() if name not in _SIZE},
        }


_SIZE = ("width", "height")


def run(plan: LatencyPlan, output: Path, *, resume: bool, say: Say) -> LatencyResult:
    """Measure, and write `output` after every row.

    resume: keep the rows that `output` holds and try its failed rows again. Raises `InvalidInput`
    if it holds a run with other settings, `OutputError` if it cannot be written.
    """
    result = _begin(plan, output, resume=resume, say=say)
    done = {row.key for row in result.rows if row.failed is None}
    share = busy_share()
    if share > QUIET_SHARE:
        say(
            f"other programs use {share:.0%} of the cores: disturbed repetitions are discarded, "
            "and a figure without enough quiet repetitions is marked as noisy"
        )
    region = any(wants_regions(name) for name in plan.contestants)
    with OisEngines(plan.network, plan.checkpoint, say, region=region) as engines:
        for work in plan.work:
            for name in plan.contestants:
                if (name, work.width, work.height) in done:
                    continue
                say(f"{name} on {work.width}x{work.height}")
                row = measure(plan, name, work, engines, say)
                others = (each for each in result.rows if each.key != row.key)
                result = replace(result, rows=(*others, row))
                write_result(output, result.to_dict())
                say(f"  {line(row)}")
    return result


def _begin(plan: LatencyPlan, output: Path, *, resume: bool, say: Say) -> LatencyResult:
    here = {
        **machine.describe(),
        "allocator": ALLOCATOR_ENVIRONMENT,
        "threads": plan.threads,
    }
    fresh = LatencyResult(benchmark=plan.benchmark, settings=plan.settings(), machine=here)
    if not (resume and output.exists()):
        return fresh
    old = read_result(output)
    for what, was, now in (
        ("benchmark", old.benchmark, plan.benchmark),
        ("settings", old.settings, json.loads(json.dumps(fresh.settings))),
        ("processor", old.machine.get("cpu"), here["cpu"]),
        ("GPU", old.machine.get("gpu"), here.get("gpu")),
    ):
        if was != now:
            raise InvalidInput(
                f"{output} holds another run: {what} {was}, expected {now}. Choose another output, "
                "or leave out --resume to start over"
            )
    if old.machine.get("commit") != here["commit"]:
        say(f"note: {output} was started at commit {old.machine.get('commit')}")
    say(f"{output} holds {sum(row.failed is None for row in old.rows)} measured rows")
    return old


def measure(
    plan: LatencyPlan, name: str, work: Work, engines: OisEngines, say: Say = lambda _: None
) -> LatencyRow:
    """Measure one contestant on one picture, in its own process.

    If too little memory is free, `say` warns: a virtual machine may get more when it asks.
    """
    failed = LatencyRow(contestant=name, width=work.width, height=work.height)
    entry = CONTESTANTS.get(name)
    memory = machine.memory()
    if entry and memory and memory.available_bytes < entry.memory_gib * 2**30:
        free_gib = memory.available_bytes / 2**30
        say(
            f"  warning: it needs about {entry.memory_gib} GiB of memory and {free_gib:.1f} GiB "
            "are free; if it fails, close other programs and run again with --resume"
        )
    peer = peer_of(name)
    with tempfile.TemporaryDirectory(prefix="ois-bench-") as scratch:
        place = Place(
            threads=plan.threads,
            scratch=Path(scratch),
            device=plan.device,
            checkout=plan.checkouts.get(peer),
            weights=plan.weights.get(peer),
            engines=None
            if peer or is_server(name)
            else engines.folder(exported=wants_export(name)),
            plans=plan.plans,
        )
        job, answer = Path(scratch, "job.json"), Path(scratch, "row.json")
        job.write_text(json.dumps(job_of(plan.benchmark, name, place, work)))
        command = [sys.executable, "-m", "ois_benchmarks.latency.worker", str(job), str(answer)]
        done = _run_worker(command, environment(plan))
        if done.returncode or not answer.exists():
            return replace(failed, failed=_death(done))
        return LatencyRow.from_dict(json.loads(answer.read_text()))


def _run_worker(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The worker exits when its stdin closes, which happens however this process ends."""
    reading, writing = os.pipe()
    try:
        return subprocess.run(command, stdin=reading, capture_output=True, text=True, env=env)
    finally:
        os.close(reading)
        os.close(writing)


def environment(plan: LatencyPlan) -> dict[str, str]:
    """Environment variables of a worker: the same allocator and threads for all contestants."""
    threads = {"OMP_NUM_THREADS": str(plan.threads), "MKL_NUM_THREADS": str(plan.threads)}
    token = {TOKEN_VARIABLE: plan.token} if plan.token else {}
    return {**os.environ, **ALLOCATOR_ENVIRONMENT, **threads, **token}


def _death(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode == -signal.SIGKILL:
        return "its process was killed, most likely because memory ran out"
    if done.returncode < 0:
        return f"its process was ended by {signal.Signals(-done.returncode).name}"
    said = done.stderr.strip().splitlines() or ["it printed nothing"]
    return f"its process ended with exit code {done.returncode}: {said[-1]}"


def line(row: LatencyRow) -> str:
    """A row as one line for the terminal."""
    if row.failed is not None:
        return f"{'not here' if row.absent else 'failed'}: {row.failed}"
    parts = [] if row.encode is None else [f"encode {row.encode.median_s:.3f} s"]
    for definition, figure in row.figures.items():
        projected = f" (projected from {figure.clicks} clicks)" if figure.projected else ""
        parts.append(f"{definition} {figure.seconds:.4g} s{projected}")
    if row.noisy:
        parts.append("the machine was not quiet")
    return ", ".join(parts)
