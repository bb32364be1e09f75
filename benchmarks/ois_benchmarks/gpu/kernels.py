"""`ois bench kernels`: a click's masked attention on a GPU, by our kernels and by PyTorch.

Every size is checked for parity with the equations in float64 before it is timed. With `write`, the
result goes into `ois_network/kernels/measured.json`, from which `KernelAttention` decides what to
run. *Not run on a GPU yet.*
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ois_benchmarks import machine
from ois_benchmarks.gpu.click import flops, least_bytes
from ois_benchmarks.gpu.timing import GraphTimer, Microseconds, describe_gpu, require_gpu
from ois_benchmarks.results import write_result
from ois_benchmarks.table import Column, Table, TableRow
from ois_client.contract.clicks import SLOTS
from ois_client.contract.errors import InvalidInput, ParityError
from ois_network.config import preset
from ois_network.kernels.choice import Blocks, Measurement, forget_measurements, write_measurements
from ois_network.kernels.click_attention import TOLERANCE, ClickAttention
from ois_network.kernels.slots import Call

OBJECTS = (1, 2, 4, 8, 16, 32, 64)
GRIDS = ((73, 73), (41, 73))  # 1022x1022 and 1022x574
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
#: Tiles, warps and stages to try, each with as many shares as fill the GPU 1, 2 and 4 times.
CANDIDATES = (
    Blocks(64, 64, 1),
    Blocks(64, 64, 1, stages=2),
    Blocks(64, 32, 1),
    Blocks(64, 128, 1, warps=8),
    Blocks(16, 64, 1),
    Blocks(16, 64, 1, skip=True),
)
_FILLS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One size. Times are of all six attentions of a click.

    cold, warm: the state of the L2 cache. fused_us: six times PyTorch's attention alone, with K, V
    and mask already in memory. floor_us: see `Rates.floor_s`. error: relative, against float64.
    """

    call: Call
    kernels_cold: Microseconds
    kernels_warm: Microseconds
    torch_cold: Microseconds
    torch_warm: Microseconds
    fused_us: float
    floor_us: float
    error: float
    blocks: Blocks

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        data["call"]["dtype"] = str(self.call.dtype).removeprefix("torch.")
        return data

    @property
    def measurement(self) -> Measurement:
        """The row as `KernelAttention` reads it.

        Cold, because a click's convolutions evict K and V from the cache.
        """
        return Measurement(self.call, self.kernels_cold.median, self.torch_cold.median, self.blocks)


def run(
    dtype: str,
    objects: Sequence[int],
    repeats: int,
    output: Path | None,
    *,
    write: bool,
    say: Callable[[str], None],
) -> list[KernelRow]:
    """Measure all sizes. The files grow with every row, so that a time limit loses one row.

    dtype: a key of `DTYPES`. output: the result as JSON. write: let this measurement decide what
    this GPU runs. Raises `InvalidInput` without a GPU or Triton, `ParityError` if the kernels are
    wrong for any size; then with `write` they are not used on this GPU at all.
    """
    if min(objects) < 1 or repeats < 1:
        raise InvalidInput("--objects and --repeats must be at least 1")
    device = require_gpu()
    if find_spec("triton") is None:
        raise InvalidInput("Triton is missing; pip install 'ois-deploy[kernels]'")
    rows: list[KernelRow] = []
    try:
        for row in measure(DTYPES[dtype], sorted(set(objects)), repeats, device):
            rows.append(row)
            _save(rows, device, output, write=write)
            say(f"{row.call.keys} keys, {row.call.objects} objects done")
    except ParityError:
        if write:
            forget_measurements(describe_gpu(device)["capability"], DTYPES[dtype])
        raise
    return rows


def measure(
    dtype: torch.dtype, objects: Sequence[int], repeats: int, device: torch.device
) -> Iterator[KernelRow]:
    """Every size, smallest first. Raises `ParityError` at the first that is wrong."""
    timer = GraphTimer(device, repeats)
    rates = timer.rates(dtype)
    network = preset("vitb")
    for grid in GRIDS:
        for n in objects:
            keys = grid[0] * grid[1]
            call = Call(n, SLOTS, network.prompt_dim, keys, network.fusion_heads, dtype)
            limit_us = 1e6 * rates.floor_s(flops(call), least_bytes(call))
            yield _measure(call, grid, timer, limit_us)


def candidates(call: Call, multiprocessors: int) -> list[Blocks]:
    """All `CANDIDATES`, each with every sensible number of shares."""
    found = []
    for blocks in CANDIDATES:
        programs = call.objects * call.heads * -(-call.queries // blocks.queries)
        most = -(-call.keys // blocks.keys)
        # One share less, because the share of the touched patches is launched with them.
        shares = {max(1, min(most, fill * multiprocessors // programs - 1)) for fill in _FILLS}
        found += [
            Blocks(blocks.queries, blocks.keys, n, blocks.skip, blocks.warps, blocks.stages)
            for n in sorted(shares)
        ]
    return found


def _measure(call: Call, grid: tuple[int, int], timer: GraphTimer, floor_us: float) -> KernelRow:
    click = ClickAttention.random(call, grid, timer.device)
    count = torch.cuda.get_device_properties(timer.device).multi_processor_count
    exact = click.exact()
    best: tuple[Microseconds, Blocks, float] | None = None
    for blocks in candidates(call, count):
        graph, outputs = timer.capture(partial(click.by_kernels, blocks))
        for output in outputs:
            output.fill_(float("nan"))  # reveals elements that the replay does not write
        graph.replay()
        error = click.error(outputs, exact)
        # Written so that NaN, which compares false with everything, does not pass.
        if not error <= TOLERANCE[call.dtype]:
            raise ParityError(
                f"the kernels differ from the equations by {error:.1e} with {blocks} at {call}; "
                f"expected at most {TOLERANCE[call.dtype]:.0e}. Do not use them on this device"
            )
        taken = timer.time_graph(graph, cold=True)
        if best is None or taken.median < best[0].median:
            best = taken, blocks, error
    if best is None:
        raise InvalidInput("there is no candidate to measure")
    cold, blocks, error = best
    fused = timer.time(click.fused_alone(), cold=True)
    return KernelRow(
        call,
        cold,
        timer.time(partial(click.by_kernels, blocks), cold=False),
        timer.time(click.by_torch, cold=True),
        timer.time(click.by_torch, cold=False),
        6 * fused.median,
        floor_us,
        error,
        blocks,
    )


def table_of(rows: Sequence[KernelRow]) -> Table:
    """Microseconds per click, one line per size."""
    names = [
        *("keys", "objects", "kernels cold / warm", "PyTorch cold / warm"),
        *("its attention alone", "floor", "of the floor", "faster"),
    ]
    return Table("", [Column(name) for name in names], [TableRow(_cells(row)) for row in rows])


def _cells(row: KernelRow) -> list[str]:
    kernels, other = row.kernels_cold.median, row.torch_cold.median
    return [
        *(str(row.call.keys), str(row.call.objects)),
        f"{kernels:.1f} / {row.kernels_warm.median:.1f}",
        f"{other:.1f} / {row.torch_warm.median:.1f}",
        *(f"{row.fused_us:.1f}", f"{row.floor_us:.1f}"),
        *(f"{row.floor_us / kernels:.0%}", f"{other / kernels:.2f}x"),
    ]


def _save(
    rows: Sequence[KernelRow], device: torch.device, output: Path | None, *, write: bool
) -> None:
    about = machine.describe() | describe_gpu(device)
    if output is not None:
        found = [row.to_dict() for row in rows]
        write_result(output, {"benchmark": "kernels", "machine": about, "rows": found})
    if write:
        kept = {name: about[name] for name in ("gpu", "date", "commit", "versions")}
        write_measurements(about["capability"], kept, [row.measurement for row in rows])
