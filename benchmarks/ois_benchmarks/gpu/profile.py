"""`ois bench gpu-profile`: which kernels one click and one encode consist of, and their times.

The engine runs without CUDA graphs, because a profiler names the kernels of a graph but not the
operations that launched them. PyTorch's profiler measures. *Not run on a GPU yet.*
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ois_benchmarks import machine
from ois_benchmarks.contestants.base import CHECKPOINT
from ois_benchmarks.contestants.prepared import write_network
from ois_benchmarks.gpu.timing import describe_gpu, require_gpu
from ois_benchmarks.latency import engine_worker
from ois_benchmarks.results import write_result
from ois_benchmarks.table import Column, Table, TableRow
from ois_runtime.engines.backends import EngineOptions, Precision
from ois_runtime.torch.engine import TorchEngines, open_whole

#: Runs before the profile: the first ones set up libraries.
_WARM_UP = 3
_LONGEST_NAME = 90


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kind of kernel. us: of all its calls in one run."""

    name: str
    calls: int
    us: float


def run(
    *,
    network: str,
    checkpoint: Path | None,
    size: tuple[int, int],
    precision: str,
    output: Path | None,
) -> dict[str, list[Kernel]]:
    """Profile an encode and a click on one object. Longest kernels first.

    network, checkpoint: as for `write_network`. size: (width, height) in network pixels. Raises
    `InvalidInput` without a GPU, or for a size or precision that the engine does not support.
    """
    options = EngineOptions(device="cuda", precision=Precision.parse(precision), cuda_graphs=0)
    device = require_gpu()
    with tempfile.TemporaryDirectory(prefix="ois-gpu-profile-") as scratch:
        write_network(Path(scratch), network, checkpoint, exported=False)
        engines = open_whole(Path(scratch, CHECKPOINT), options)
    found = profiles(engines, size, device)
    if output is not None:
        about = machine.describe() | describe_gpu(device)
        parts = {name: [asdict(kernel) for kernel in kernels] for name, kernels in found.items()}
        write_result(
            output,
            {
                "benchmark": "gpu-profile",
                "engine": engines.description,
                "size": f"{size[0]}x{size[1]}",
                "machine": about,
                **parts,
            },
        )
    return found


def profiles(
    engines: TorchEngines, size: tuple[int, int], device: torch.device
) -> dict[str, list[Kernel]]:
    """The kernels of an encode and of a click. On a CPU: the operations."""
    geometry, image, prompts = engine_worker.inputs(engines.manifest.fit, *size)
    state = engines.encode(image, geometry)
    return {
        "encode": kernels_of(lambda: engines.encode(image, geometry), device),
        "click": kernels_of(
            lambda: engines.decode_masks(state, prompts, want_logits=False), device
        ),
    }


def kernels_of(run: Callable[[], object], device: torch.device) -> list[Kernel]:
    """The kernels of one run after `_WARM_UP` runs, the longest first.

    On a GPU those of all threads, on a CPU the operations of this one.
    """
    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    for _ in range(_WARM_UP):
        run()
    with profile(activities=[activity]) as measured:
        run()
    found = []
    for event in measured.key_averages():
        us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if us > 0:
            found.append(Kernel(event.key, event.count, float(us)))
    return sorted(found, key=lambda kernel: -kernel.us)


def tables_of(found: Mapping[str, list[Kernel]], most: int = 25) -> list[Table]:
    """The `most` longest kernels of each part, and the sum of all."""
    tables = []
    for part, kernels in found.items():
        columns = [Column(part, number=False), *(Column(n) for n in ("calls", "us", "share"))]
        total = sum(kernel.us for kernel in kernels) or 1.0
        rows: list[tuple[Any, ...]] = [(k.name, k.calls, k.us) for k in kernels[:most]]
        rows.append(("all", sum(kernel.calls for kernel in kernels), total))
        tables.append(
            Table(
                "",
                columns,
                [
                    TableRow([name[:_LONGEST_NAME], str(calls), f"{us:.1f}", f"{us / total:.0%}"])
                    for name, calls, us in rows
                ],
            )
        )
    return tables
