"""The masked attention of a click on a GPU: our kernels beside PyTorch's, 1 to 64 objects.

    python -m ois_benchmarks.gpu.kernels [--output FILE] [--write]

First parity (float64 equations, poisoned outputs), then times. --write puts the result into
`ois_network/kernels/measured.json`, from where `KernelAttention` decides what to run. Not run
on a GPU yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ois_benchmarks import machine
from ois_benchmarks.gpu.timing import (
    GraphTimer,
    Microseconds,
    describe_gpu,
    require_gpu,
)
from ois_benchmarks.latency.engines import save
from ois_client.contract.clicks import SLOTS
from ois_client.contract.errors import InvalidInput, OISError, ParityError
from ois_network.config import preset
from ois_network.kernels.choice import Blocks, Measurement, forget_measurements, write_measurements
from ois_network.kernels.slots import Call

OBJECTS = (1, 2, 4, 8, 16, 32, 64)
GRIDS = ((73, 73), (41, 73))  # 1022x1022 and 1022x574
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
#: |kernel - float64| / |float64| over all outputs.
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
#: Tiles, warps, stages that are tried; with each, shares that fill the GPU 1, 2 and 4 times.
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
class Row:
    """One size. Times of all six attentions of a click, but `fused_us`: PyTorch's attention
    alone, six times, K, V and mask already written out. floor_us: see `Rates.floor_s`.
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
        """Cold, because a click's convolutions leave nothing of K and V in the cache."""
        return Measurement(self.call, self.kernels_cold.median, self.torch_cold.median, self.blocks)


def run(
    dtype: torch.dtype, objects: Sequence[int], repeats: int, device: torch.device
) -> Iterator[Row]:
    """Every size, smallest first. Raises `ParityError` at the first that is wrong."""
    from ois_benchmarks.gpu.click import flops, least_bytes

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
    """All `CANDIDATES` with each sensible number of shares."""
    found = []
    for blocks in CANDIDATES:
        programs = call.objects * call.heads * -(-call.queries // blocks.queries)
        most = -(-call.keys // blocks.keys)
        shares = {max(1, min(most, -(-fill * multiprocessors // programs))) for fill in _FILLS}
        found += [
            Blocks(blocks.queries, blocks.keys, n, blocks.skip, blocks.warps, blocks.stages)
            for n in sorted(shares)
        ]
    return found


def _measure(call: Call, grid: tuple[int, int], timer: GraphTimer, floor_us: float) -> Row:
    from ois_benchmarks.gpu.click import ClickAttention

    click = ClickAttention.random(call, grid, timer.device)
    count = torch.cuda.get_device_properties(timer.device).multi_processor_count
    exact = click.exact()
    best: tuple[Microseconds, Blocks, float] | None = None
    for blocks in candidates(call, count):
        graph, outputs = timer.capture(partial(click.by_kernels, blocks))
        for output in outputs:
            output.fill_(float("nan"))  # so that what the replay does not write is seen
        graph.replay()
        error = _error(outputs, exact)
        # NaN compares false with everything: it must not pass either.
        if not error <= TOLERANCE[call.dtype]:
            raise ParityError(
                f"the kernels differ from the equations by {error:.1e} with {blocks} at {call}; "
                f"at most {TOLERANCE[call.dtype]:.0e} is rounding. Do not use them on this device"
            )
        taken = timer.time_graph(graph, cold=True)
        if best is None or taken.median < best[0].median:
            best = taken, blocks, error
    if best is None:
        raise InvalidInput("there is no candidate to measure")
    cold, blocks, error = best
    fused = timer.time(click.fused_alone(), cold=True)
    return Row(
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


def _error(outputs: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Of the first block's two; the others must at least be finite."""
    if not all(bool(output.isfinite().all()) for output in outputs):
        return float("nan")
    pairs = list(zip(outputs, exact, strict=False))
    return max(float((got.double() - want).norm() / want.norm()) for got, want in pairs)


def markdown(rows: Sequence[Row]) -> str:
    """The table, microseconds a click."""
    lines = [
        "| keys | objects | kernels cold / warm | PyTorch cold / warm | its attention alone "
        "| floor | of the floor | faster |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kernels, other = row.kernels_cold.median, row.torch_cold.median
        lines.append(
            f"| {row.call.keys} | {row.call.objects} "
            f"| {kernels:.1f} / {row.kernels_warm.median:.1f} "
            f"| {other:.1f} / {row.torch_warm.median:.1f} | {row.fused_us:.1f} "
            f"| {row.floor_us:.1f} | {row.floor_us / kernels:.0%} | {other / kernels:.2f}x |"
        )
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ois_benchmarks.gpu.kernels",
        description="Masked attention of a click on a GPU: our kernels beside PyTorch's.",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--objects", type=int, nargs="+", default=OBJECTS, metavar="N")
    parser.add_argument("--repeats", type=int, default=100, help="replays of each graph")
    parser.add_argument("--output", type=Path, help="also write the result as JSON")
    parser.add_argument(
        "--write", action="store_true", help="let this measurement decide what this GPU runs"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = arguments().parse_args(argv)
    try:
        if min(options.objects) < 1 or options.repeats < 1:
            raise InvalidInput("--objects and --repeats must be at least 1")
        device = require_gpu()
        if find_spec("triton") is None:
            raise InvalidInput("Triton is missing; pip install 'ois-deploy[kernels]'")
        dtype = DTYPES[options.dtype]
        rows = []
        try:
            for row in run(dtype, sorted(set(options.objects)), options.repeats, device):
                rows.append(row)
                # After each: what a time limit cuts off must not take the others along.
                _keep(rows, device, options.output, write=options.write)
                print(f"{row.call.keys} keys, {row.call.objects} objects done", file=sys.stderr)
        except ParityError:
            if options.write:  # kernels that are wrong somewhere are not used anywhere
                forget_measurements(describe_gpu(device)["capability"], dtype)
            raise
        print(markdown(rows))
    except OISError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _keep(rows: Sequence[Row], device: torch.device, output: Path | None, *, write: bool) -> None:
    about = machine.describe() | describe_gpu(device)
    if output is not None:
        found = [row.to_dict() for row in rows]
        save({"benchmark": "kernels", "machine": about, "rows": found}, output)
    if write:
        kept = {name: about[name] for name in ("gpu", "date", "commit", "versions")}
        write_measurements(about["capability"], kept, [row.measurement for row in rows])


if __name__ == "__main__":
    sys.exit(main())
