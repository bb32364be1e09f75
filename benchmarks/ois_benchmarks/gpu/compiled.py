"""`ois bench gpu-compiled`: what `torch.compile` would gain for both halves of the engine.

Each half is compiled whole (`fullgraph`), captured as a CUDA graph and timed beside the same half
as it is. An engine opened with `compile=measured` decides the same for itself.
*Not run on a GPU yet*; tests trace both halves on a CPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ois_benchmarks import machine
from ois_benchmarks.contestants.base import CHECKPOINT
from ois_benchmarks.contestants.prepared import write_network
from ois_benchmarks.gpu.timing import GraphTimer, Microseconds, describe_gpu, require_gpu
from ois_benchmarks.latency import engine_worker
from ois_benchmarks.results import write_result
from ois_benchmarks.table import Column, Table, TableRow
from ois_network.checkpoints.checkpoint import load_checkpoint
from ois_network.half import lower_precision
from ois_network.kernels.dot import use_dot_products
from ois_network.split import ClickDecoder, ImageEncoder
from ois_runtime.engines.backends import Precision
from ois_runtime.torch.device import dtype_of, exact_products

#: A backend of `torch.compile`.
Backend = str | Callable[..., Any]


@dataclass(frozen=True, slots=True)
class CompiledHalf:
    """One half. eager, compiled: as CUDA graphs. compile_s: of the first run. error: the largest
    difference of an output, relative to its largest value.
    """

    name: str
    eager: Microseconds
    compiled: Microseconds
    compile_s: float
    error: float


def run(
    *,
    network: str,
    checkpoint: Path | None,
    size: tuple[int, int],
    precision: str,
    repeats: int,
    output: Path | None,
    say: Callable[[str], None],
) -> list[CompiledHalf]:
    """Measure both halves, the click first. The file grows with every row.

    network, checkpoint: as for `write_network`. size: (width, height) in network pixels. Raises
    `InvalidInput` without a GPU, or for a size or precision that is not supported.
    """
    kind = Precision.parse(precision)
    device = require_gpu()
    timer = GraphTimer(device, repeats)
    with tempfile.TemporaryDirectory(prefix="ois-gpu-compiled-") as scratch:
        write_network(Path(scratch), network, checkpoint, exported=False)
        halves = halves_of(Path(scratch, CHECKPOINT), kind, device)
    about = {"network": network, "size": f"{size[0]}x{size[1]}", "precision": kind.value}
    rows: list[CompiledHalf] = []
    for row in measure(*halves, size, timer, device):
        rows.append(row)
        say(f"{row.name}: {row.eager.median:.0f} us, compiled {row.compiled.median:.0f} us")
        if output is not None:
            write_result(
                output,
                {
                    "benchmark": "gpu-compiled",
                    **about,
                    "machine": machine.describe() | describe_gpu(device),
                    "rows": [asdict(each) for each in rows],
                },
            )
    return rows


def halves_of(
    file: Path, precision: Precision, device: torch.device
) -> tuple[ImageEncoder, ClickDecoder]:
    """Both halves on the device, as the engine has them, with PyTorch's attention."""
    network = load_checkpoint(file).network.requires_grad_(False)
    encoder, decoder = ImageEncoder(network), ClickDecoder(network)
    if precision is not Precision.FP32:
        lower_precision(encoder, decoder, dtype_of(precision))
    for half in (encoder, decoder):
        half.to(device)
        half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_dot_products(network.depth_head, network.mask_head)
    return encoder, decoder


def measure(
    encoder: ImageEncoder,
    decoder: ClickDecoder,
    size: tuple[int, int],
    timer: GraphTimer,
    device: torch.device,
    backend: Backend = "inductor",
) -> Iterator[CompiledHalf]:
    """The click on one object, then the encode, of an image of `size` (width, height).

    Raises what `torch.compile` raises if a half cannot be compiled whole.
    """
    config = encoder.network.config
    geometry, image, prompts = engine_worker.inputs(config.fit, *size)
    tables = geometry.position_matrices(config.position_table)
    given = [torch.tensor(array).to(device) for array in (image, *tables)]
    clicks = [torch.tensor(array).to(device) for array in prompts]
    with torch.no_grad(), exact_products():
        state = encoder(*given)
        yield _measure("click, N = 1", decoder, (state, *clicks), timer, backend)
        yield _measure("encode", encoder, tuple(given), timer, backend)


def _measure(
    name: str, half: torch.nn.Module, given: tuple[Any, ...], timer: GraphTimer, backend: Backend
) -> CompiledHalf:
    compiled = torch.compile(half, fullgraph=True, dynamic=False, backend=backend)
    want = tree_leaves(half(*given))
    begin = time.perf_counter()
    got = tree_leaves(compiled(*given))
    compile_s = time.perf_counter() - begin
    error = max(_difference(one, other) for one, other in zip(got, want, strict=True))
    return CompiledHalf(
        name,
        timer.time(lambda: half(*given), cold=False),
        timer.time(lambda: compiled(*given), cold=False),
        compile_s,
        error,
    )


def _difference(got: Tensor, want: Tensor) -> float:
    scale = float(want.double().abs().max()) or 1.0
    return float((got.double() - want.double()).abs().max()) / scale


def table_of(rows: Sequence[CompiledHalf]) -> Table:
    """Microseconds of both forms."""
    names = ("as it is, us", "compiled, us", "faster", "difference", "compiling, s")
    return Table(
        "",
        [Column("", number=False), *(Column(name) for name in names)],
        [
            TableRow(
                [
                    row.name,
                    f"{row.eager.median:.0f}",
                    f"{row.compiled.median:.0f}",
                    f"{row.eager.median / row.compiled.median:.2f}x",
                    f"{row.error:.1e}",
                    f"{row.compile_s:.0f}",
                ]
            )
            for row in rows
        ],
    )
