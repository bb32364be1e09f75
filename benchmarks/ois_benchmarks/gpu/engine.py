"""The torch engine alone on a GPU: encode, clicks on 1 to 64 objects, masks, shapes never seen.

    python -m ois_benchmarks.gpu.engine [--network vitb | --checkpoint FILE] [--output FILE]

replay    one CUDA graph, by CUDA events: what the GPU works for an encode or a click
masks     `pack_masks` of the click's logits, likewise
call      `engines.encode` or `decode_masks`, by the clock: copies, launch and waiting too
shapes    the same calls on images of new shapes, use by use: plainly, at the capture, replayed

The floor is the larger of counted FLOPs and bytes over what a large product and a large copy
reach in the same run. N objects are counted with N times the FLOPs and the bytes of one, since
weights and the image's features are read once: a bound from below. *Not run on a GPU yet.*
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ois_benchmarks import machine
from ois_benchmarks.contestants.base import CHECKPOINT
from ois_benchmarks.gpu.timing import GraphTimer, Microseconds, Rates, describe_gpu, require_gpu
from ois_benchmarks.latency import engine_worker
from ois_benchmarks.latency.engines import save
from ois_client.contract.errors import EngineError, InvalidInput, OISError
from ois_network.flops import Row, click_flops
from ois_runtime.engines.base import EngineOptions, HostPrompts
from ois_runtime.torch.buckets import BUCKETS, CAPTURE_AT, GraphKey
from ois_runtime.torch.device import dtype_of
from ois_runtime.torch.engine import TorchEngines, open_engines
from ois_runtime.torch.graphs import GraphRunner
from ois_runtime.torch.postprocess import pack_masks

#: Heights beside the longest side, in patches, as shares of it: none is the square of the start.
_SHAPES = (0.75, 0.67, 0.56, 0.5)
_CALLS = 20


@dataclass(frozen=True, slots=True)
class Replayed:
    """One graph. objects: 0 for an encode. call_us: by the clock. bound: of the floor, "arithmetic"
    or "memory". masks: of a click.
    """

    objects: int
    replay: Microseconds
    call_us: float
    floor_us: float
    bound: str
    masks: Microseconds | None = None

    @property
    def name(self) -> str:
        return f"click, N = {self.objects}" if self.objects else "encode"


@dataclass(frozen=True, slots=True)
class NewShape:
    """Milliseconds of an image's encode and of a click on it, by use: the first, the second ..."""

    width: int
    height: int
    encode_ms: tuple[float, ...]
    click_ms: tuple[float, ...]


class Bench:
    """The engine on one size of image."""

    def __init__(
        self, engines: TorchEngines, timer: GraphTimer, rates: Rates, width: int, height: int
    ) -> None:
        """Raises `InvalidInput` when the network has no such size, `EngineError` off a GPU."""
        if not isinstance(engines.runner, GraphRunner):
            raise EngineError(f"got engines on the CPU ({engines.description}); expected a GPU's")
        self._engines, self._runner, self._timer = engines, engines.runner, timer
        self._rates = rates
        self._geometry, self._image, self._prompts = engine_worker.inputs(
            engines.manifest.longest, width, height
        )

    def replays(self, objects: Sequence[int], cost: Row) -> Iterator[Replayed]:
        """The encode, then every number of objects. cost: of one, in fp32.

        Raises `ServerOverloaded` at the first number that does not fit into the GPU's memory.
        """
        share = 1 if self._engines.manifest.precision == "fp32" else 2
        encode = partial_of(self._engines.encode, self._image, self._geometry)
        state = repeated(encode)
        key = GraphKey(self._grid, 0)
        work = cost.encode_flops, cost.encode_bytes / share
        yield self._replayed(0, self._runner.kept.encodes.find(key), encode, work)
        for count in objects:
            given = repeat_object(self._prompts, count)
            click = partial_of(self._engines.decode_masks, state, given, want_logits=False)
            repeated(click)
            key = GraphKey(self._grid, count)
            work = count * cost.click_flops, cost.click_bytes / share
            yield self._replayed(count, self._runner.kept.clicks.find(key), click, work)

    def new_shapes(self) -> Iterator[NewShape]:
        """Images that the engine has not seen."""
        longest, patch = self._engines.manifest.longest, self._engines.manifest.patch
        for height in sorted({round(share * longest / patch) * patch for share in _SHAPES}):
            geometry, image, prompts = engine_worker.inputs(longest, longest, height)
            uses = range(CAPTURE_AT + 1)
            encodes, clicks = [], []
            for _ in uses:
                took, state = clocked(partial_of(self._engines.encode, image, geometry))
                encodes.append(1000 * took)
                click = partial_of(self._engines.decode_masks, state, prompts, want_logits=False)
                clicks.append(1000 * clocked(click)[0])
            yield NewShape(longest, height, tuple(encodes), tuple(clicks))

    @property
    def _grid(self) -> tuple[int, int]:
        return self._geometry.grid_height, self._geometry.grid_width

    def _replayed(
        self, count: int, graph: Any, call: Callable[[], object], work: tuple[float, float]
    ) -> Replayed:
        """work: FLOPs and bytes, at least."""
        if graph is None:
            raise EngineError(f"no graph was captured for {count} objects; expected a bucket's")
        replay = self._timer.time_graph(graph.captured, cold=False)
        call_us = 1e6 * statistics.median(clocked(call)[0] for _ in range(_CALLS))
        masks = None
        if count:
            logits = graph.captured.outputs[0].clone()
            masks = self._timer.time(partial_of(pack_masks, logits, self._geometry), cold=False)
        floor_us = 1e6 * self._rates.floor_s(*work)
        return Replayed(count, replay, call_us, floor_us, self._rates.bound(*work), masks)


def partial_of(function: Callable[..., Any], *given: Any, **named: Any) -> Callable[[], Any]:
    """As `functools.partial`, in inference mode, as the engine runs."""

    def run() -> Any:
        with torch.inference_mode():
            return function(*given, **named)

    return run


def repeat_object(prompts: HostPrompts, count: int) -> HostPrompts:
    """The one object of `prompts`, `count` times."""
    return prompts.map(lambda array: np.repeat(array, count, axis=0))


def repeated(run: Callable[[], Any]) -> Any:
    """Until there is a graph; returns what the last run gave."""
    return [run() for _ in range(CAPTURE_AT)][-1]


def clocked(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it gave. The engine's calls end when the GPU has finished."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def cost_of(engines: TorchEngines, width: int, height: int) -> Row:
    """Counted on this very network, without and with cached K and V as the engine has it."""
    from ois_network.config import NetworkConfig

    config = NetworkConfig.from_dict(dict(engines.manifest.network))
    rows = click_flops(config, height, width)
    return rows[-1] if engines.rewrites.cached_kv else rows[-2]


def markdown(rows: Sequence[Replayed], shapes: Sequence[NewShape]) -> str:
    """Both tables."""
    lines = [
        "| | replay, us | of the floor | masks, us | call, us |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        masks = f"{row.masks.median:.0f}" if row.masks else ""
        lines.append(
            f"| {row.name} | {row.replay.median:.0f} ({row.replay.low:.0f} to "
            f"{row.replay.high:.0f}) | {row.floor_us / row.replay.median:.0%} | {masks} "
            f"| {row.call_us:.0f} |"
        )
    if shapes:
        lines += ["", "| new shape | encode by use, ms | click by use, ms |", "|---|---|---|"]
    for shape in shapes:
        encodes, clicks = (
            ", ".join(f"{ms:.1f}" for ms in times) for times in (shape.encode_ms, shape.click_ms)
        )
        lines.append(f"| {shape.width}x{shape.height} | {encodes} | {clicks} |")
    return "\n".join(lines)


def document_of(
    about: Mapping[str, Any],
    rows: Sequence[Replayed],
    shapes: Sequence[NewShape],
    stopped: Mapping[str, str],
) -> dict[str, Any]:
    """JSON-ready. stopped: why there are no more rows, or nothing."""
    made = {"rows": [asdict(row) for row in rows], "shapes": [asdict(shape) for shape in shapes]}
    return {"benchmark": "gpu-engine", **about, **made, **stopped}


def arguments() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ois_benchmarks.gpu.engine",
        description="The torch engine alone on a GPU, by CUDA events.",
    )
    parser.add_argument("--network", default="vitb", help="tiny, vits, vitb or vitl, random")
    parser.add_argument("--checkpoint", type=Path, help="measure this network instead")
    parser.add_argument("--size", default="1022x1022", help="network pixels, WIDTHxHEIGHT")
    parser.add_argument("--precision", choices=("f32", "f16", "bf16"), default="f16")
    parser.add_argument("--objects", type=int, nargs="+", choices=BUCKETS, default=BUCKETS)
    parser.add_argument("--repeats", type=int, default=50, help="replays of each graph")
    parser.add_argument("--output", type=Path, help="also write the result as JSON")
    return parser


def run(options: argparse.Namespace) -> None:
    """Measure and print; the JSON grows with every row."""
    device = require_gpu()
    width, _, height = options.size.partition("x")
    if not (width.isdigit() and height.isdigit()) or options.repeats < 1:
        raise InvalidInput(
            f"got --size {options.size} --repeats {options.repeats}; expected WIDTHxHEIGHT in "
            "pixels, for example 1022x1022, and at least 1"
        )
    size = int(width), int(height)
    timer = GraphTimer(device, options.repeats)
    rates = timer.rates(dtype_of(options.precision))
    with tempfile.TemporaryDirectory(prefix="ois-gpu-engine-") as scratch:
        engine_worker.prepare(Path(scratch), options.network, options.checkpoint, exported=False)
        engines = open_engines(
            Path(scratch, CHECKPOINT),
            EngineOptions(device="cuda", precision=options.precision),
        )
    bench = Bench(engines, timer, rates, *size)
    about = {
        "network": engines.manifest.name,
        "weights": "checkpoint" if engines.manifest.trained else "random",
        "engine": engines.description,
        "size": options.size,
        "machine": machine.describe() | describe_gpu(device),
        "rates": asdict(rates),
    }
    rows: list[Replayed] = []
    shapes: list[NewShape] = []

    stopped: dict[str, str] = {}

    def keep() -> None:
        if options.output is not None:
            save(document_of(about, rows, shapes, stopped), options.output)

    try:
        for row in bench.replays(sorted(set(options.objects)), cost_of(engines, *size)):
            rows.append(row)
            keep()
            print(f"{row.name}: {row.replay.median:.0f} us", file=sys.stderr)
    except OISError as error:  # more objects than memory: what was measured stands
        stopped = {"stopped": str(error)}
    for shape in bench.new_shapes():
        shapes.append(shape)
        keep()
    print(markdown(rows, shapes))
    if stopped:
        raise EngineError(f"after {len(rows)} rows: {stopped['stopped']}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        run(arguments().parse_args(argv))
    except OISError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
