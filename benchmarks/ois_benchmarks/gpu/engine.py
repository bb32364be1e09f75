"""`ois bench gpu-engine`: the torch engine on a GPU, without a client.

replay    one CUDA graph, timed by CUDA events: the GPU's work for an encode or a click
masks     `pack_masks` of the click's logits, timed likewise
call      `engines.encode` or `decode_masks`, by wall time: includes copies, launches and waiting
shapes    the same calls on images of new shapes, by use: eager, capturing, replayed

The floor is the larger of counted FLOPs and bytes, divided by the rates that a large product and a
large copy reach in the same run. N objects count N times the FLOPs but the bytes of one, because
weights and the image's features are read once; it is a lower bound. *Not run on a GPU yet.*
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ois_benchmarks import machine
from ois_benchmarks.contestants.base import CHECKPOINT
from ois_benchmarks.contestants.prepared import write_network
from ois_benchmarks.gpu.timing import GraphTimer, Microseconds, Rates, describe_gpu, require_gpu
from ois_benchmarks.latency import engine_worker
from ois_benchmarks.results import write_result
from ois_benchmarks.table import Column, Table, TableRow
from ois_client.contract.errors import EngineError, InvalidInput, OISError
from ois_network.flops import Row, click_flops
from ois_runtime.engines.backends import EngineOptions, Precision
from ois_runtime.engines.pair import HostPrompts
from ois_runtime.torch.device import dtype_of
from ois_runtime.torch.engine import TorchEngines, open_whole
from ois_runtime.torch.graph_pool import BUCKETS, CAPTURE_AT, GraphKey
from ois_runtime.torch.graphs import GraphRunner
from ois_runtime.torch.masks import pack_masks

#: Heights of new shapes as shares of the longest side. None is square, as the first shape is.
_SHAPES = (0.75, 0.67, 0.56, 0.5)
_CALLS = 20


@dataclass(frozen=True, slots=True)
class Replayed:
    """One graph. objects: 0 for an encode. call_us: wall time of the whole call. bound: what limits
    the floor, "arithmetic" or "memory". masks: only for a click.
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
    """Milliseconds of an image's encode and of a click on it: first use, second use, and so on."""

    width: int
    height: int
    encode_ms: tuple[float, ...]
    click_ms: tuple[float, ...]


@dataclass(slots=True)
class EngineResult:
    """What was measured so far. about: engine and machine. stopped: why there are no more rows."""

    about: Mapping[str, Any]
    rows: list[Replayed] = field(default_factory=list)
    shapes: list[NewShape] = field(default_factory=list)
    stopped: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        made = {
            "rows": [asdict(row) for row in self.rows],
            "shapes": [asdict(shape) for shape in self.shapes],
        }
        stopped = {"stopped": self.stopped} if self.stopped else {}
        return {"benchmark": "gpu-engine", **self.about, **made, **stopped}


class Bench:
    """The engine on one size of image."""

    def __init__(
        self, engines: TorchEngines, timer: GraphTimer, rates: Rates, width: int, height: int
    ) -> None:
        """Raises `InvalidInput` if the network cannot run at this size, `EngineError` if the
        engines are not on a GPU.
        """
        if not isinstance(engines.runner, GraphRunner):
            raise EngineError(f"got engines on the CPU ({engines.description}); expected a GPU")
        self._engines, self._runner, self._timer = engines, engines.runner, timer
        self._rates = rates
        self._geometry, self._image, self._prompts = engine_worker.inputs(
            engines.manifest.fit, width, height
        )

    def replays(self, objects: Sequence[int], cost: Row) -> Iterator[Replayed]:
        """The encode, then a click on each number of objects.

        cost: of one object, in fp32. Raises `ServerOverloaded` at the first number that does not
        fit into the GPU's memory, and `EngineError` at the first that does not run at once.
        """
        largest = self._runner.largest_bucket(self._grid)
        share = 1 if self._engines.manifest.precision == "fp32" else 2
        encode = inference(self._engines.encode, self._image, self._geometry)
        state = until_captured(encode)
        key = GraphKey(self._grid, 0)
        work = cost.encode_flops, cost.encode_bytes / share
        yield self._time_graph(0, self._runner.kept.encodes.find(key), encode, work)
        for count in objects:
            if count > largest:
                raise EngineError(
                    f"{count} objects run in parts of at most {largest} at this size, and the "
                    "parts are in the table"
                )
            given = repeat_object(self._prompts, count)
            click = inference(self._engines.decode_masks, state, given, want_logits=False)
            until_captured(click)
            key = GraphKey(self._grid, count)
            work = count * cost.click_flops, cost.click_bytes / share
            yield self._time_graph(count, self._runner.kept.clicks.find(key), click, work)

    def new_shapes(self) -> Iterator[NewShape]:
        """Encodes and clicks on images of shapes that the engine has not seen."""
        manifest = self._engines.manifest
        longest, patch = manifest.longest, manifest.patch
        for height in sorted({round(share * longest / patch) * patch for share in _SHAPES}):
            geometry, image, prompts = engine_worker.inputs(manifest.fit, longest, height)
            uses = range(CAPTURE_AT + 1)
            encodes, clicks = [], []
            for _ in uses:
                took, state = timed(inference(self._engines.encode, image, geometry))
                encodes.append(1000 * took)
                click = inference(self._engines.decode_masks, state, prompts, want_logits=False)
                clicks.append(1000 * timed(click)[0])
            yield NewShape(longest, height, tuple(encodes), tuple(clicks))

    @property
    def _grid(self) -> tuple[int, int]:
        return self._geometry.grid_height, self._geometry.grid_width

    def _time_graph(
        self, count: int, graph: Any, call: Callable[[], object], work: tuple[float, float]
    ) -> Replayed:
        """work: FLOPs and bytes, at least. Raises `EngineError` if there is no graph."""
        if graph is None:
            raise EngineError(
                f"no graph was captured for {count} objects; expected a number of `BUCKETS`"
            )
        replay = self._timer.time_graph(graph.captured, cold=False)
        call_us = 1e6 * statistics.median(timed(call)[0] for _ in range(_CALLS))
        masks = None
        if count:
            logits = graph.captured.outputs[0].clone()
            masks = self._timer.time(inference(pack_masks, logits, self._geometry), cold=False)
        floor_us = 1e6 * self._rates.floor_s(*work)
        return Replayed(count, replay, call_us, floor_us, self._rates.bound(*work), masks)


def inference(function: Callable[..., Any], *given: Any, **named: Any) -> Callable[[], Any]:
    """Like `functools.partial`, but in inference mode, as the engine runs."""

    def run() -> Any:
        with torch.inference_mode():
            return function(*given, **named)

    return run


def repeat_object(prompts: HostPrompts, count: int) -> HostPrompts:
    """The one object of `prompts`, `count` times."""
    return prompts.map(lambda array: np.repeat(array, count, axis=0))


def until_captured(run: Callable[[], Any]) -> Any:
    """Call `run` until its graph is captured. Returns the last result."""
    return [run() for _ in range(CAPTURE_AT)][-1]


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result. The engine's calls return when the GPU has finished."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def cost_of(engines: TorchEngines, width: int, height: int) -> Row:
    """The counted cost on one object, with cached K and V if the engine caches them."""
    from ois_network.config import NetworkConfig

    config = NetworkConfig.from_dict(dict(engines.manifest.network))
    rows = click_flops(config, height, width)
    return rows[-1] if engines.rewrites.cached_kv else rows[-2]


def tables_of(rows: Sequence[Replayed], shapes: Sequence[NewShape]) -> list[Table]:
    """Microseconds of every graph and, if there are any, milliseconds of new shapes."""
    names = [Column(name) for name in ("replay, us", "of the floor", "masks, us", "call, us")]
    replays = [
        TableRow(
            [
                row.name,
                f"{row.replay.median:.0f} ({row.replay.low:.0f} to {row.replay.high:.0f})",
                f"{row.floor_us / row.replay.median:.0%}",
                f"{row.masks.median:.0f}" if row.masks else "",
                f"{row.call_us:.0f}",
            ]
        )
        for row in rows
    ]
    tables = [Table("", [Column("", number=False), *names], replays)]
    if shapes:
        columns = [Column(n) for n in ("new shape", "encode by use, ms", "click by use, ms")]
        uses = [
            TableRow([f"{one.width}x{one.height}", *map(_by_use, (one.encode_ms, one.click_ms))])
            for one in shapes
        ]
        tables.append(Table("", columns, uses))
    return tables


def _by_use(times_ms: Sequence[float]) -> str:
    return ", ".join(f"{ms:.1f}" for ms in times_ms)


def run(
    *,
    network: str,
    checkpoint: Path | None,
    size: tuple[int, int],
    precision: str,
    objects: Sequence[int],
    repeats: int,
    output: Path | None,
    say: Callable[[str], None],
) -> EngineResult:
    """Measure. The file grows with every row, so that a time limit loses one row.

    network, checkpoint: as for `write_network`. size: (width, height) in network pixels. objects:
    numbers of objects, of `BUCKETS`. Raises `InvalidInput` without a GPU, or for a size or
    precision that the engine does not support.
    """
    unknown = sorted(set(objects) - set(BUCKETS))
    if unknown or not objects:
        raise InvalidInput(
            f"got {unknown[0] if unknown else 'no'} objects; expected some of "
            f"{', '.join(map(str, BUCKETS))}"
        )
    options = EngineOptions(device="cuda", precision=Precision.parse(precision))
    device = require_gpu()
    timer = GraphTimer(device, repeats)
    rates = timer.rates(dtype_of(options.precision))
    with tempfile.TemporaryDirectory(prefix="ois-gpu-engine-") as scratch:
        write_network(Path(scratch), network, checkpoint, exported=False)
        engines = open_whole(Path(scratch, CHECKPOINT), options)
    bench = Bench(engines, timer, rates, *size)
    about = {
        "network": engines.manifest.name,
        "weights": "checkpoint" if engines.manifest.trained else "random",
        "engine": engines.description,
        "size": f"{size[0]}x{size[1]}",
        "machine": machine.describe() | describe_gpu(device),
        "rates": asdict(rates),
    }
    result = EngineResult(about)

    def save() -> None:
        if output is not None:
            write_result(output, result.to_dict())

    try:
        for row in bench.replays(sorted(set(objects)), cost_of(engines, *size)):
            result.rows.append(row)
            save()
            say(f"{row.name}: {row.replay.median:.0f} us")
    except OISError as error:  # does not fit into memory or one run: keep what was measured
        result.stopped = str(error)
        save()
    for shape in bench.new_shapes():
        result.shapes.append(shape)
        save()
    return result
