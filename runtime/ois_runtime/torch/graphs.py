"""Runs encodes and clicks on a GPU by replaying captured CUDA graphs on static buffers.

The first use of a shape runs without a graph; a later use captures one (`GraphPool`):

    upload   image ─► pinned ─► device, on its own stream, so it overlaps with other work
    encode   device copy ─► resized ─► static inputs ─► replay ─► state, copied out of the graph
    click    state ─► static state (only at the first click on an image)
             prompts ─► one pinned block ─► one static block ─► replay ─► logits
             logits ─► replay of the image size's graph ─► masks, one bit per pixel

One thread (`GpuThread`) starts all work, and clicks run beside encodes (`cuda.Lane`). The GPU is
behind the interface `cuda.GraphDevice`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ois_client.contract.clicks import Prompts
from ois_client.contract.errors import ServerOverloaded
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.pair import Arrays, HostPrompts
from ois_runtime.torch.cuda import TORCH_TYPES, Captured, GraphDevice, Lane, Uploaded
from ois_runtime.torch.device import is_out_of_memory
from ois_runtime.torch.gpu_thread import GpuThread
from ois_runtime.torch.graph_pool import (
    BUCKETS,
    CAPTURE_AT,
    GraphKey,
    GraphPool,
    Layout,
    batches,
    fill_prompts,
    largest_bucket,
    prompt_layout,
)
from ois_runtime.torch.image_state import TorchState
from ois_runtime.torch.masks import MaskTaps, pack_masks
from ois_runtime.torch.resize import resize
from ois_runtime.torch.runner import Answer, Decode, Encode, Wanted

_LOG = logging.getLogger(__name__)
#: Graphs that pack masks, for so many image sizes, belong to each graph of a click.
_SIZES = 4
#: After so many captures that failed, no more are tried: each takes as long as many plain runs.
_MOST_FAILURES = 3

Result = TypeVar("Result")
Graph = TypeVar("Graph")


@dataclass(slots=True, eq=False)
class _StaticState:
    """An image state at fixed addresses, read by all click graphs of a grid. serial: its origin."""

    tensors: dict[str, Tensor]
    serial: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class _EncodeGraph:
    captured: Captured[dict[str, Tensor]]
    inputs: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _MaskGraph:
    """Packs the masks of a click graph's logits. taps: read at every replay."""

    captured: Captured[Tensor]
    taps: MaskTaps


@dataclass(frozen=True, slots=True, eq=False)
class _ClickGraph:
    """block: all prompts, on the device. masks: by image size; they read this graph's logits."""

    captured: Captured[tuple[Tensor, Tensor]]
    layout: Layout
    block: Tensor
    masks: GraphPool[_MaskGraph]


@dataclass(slots=True, eq=False)
class _Kept:
    """The graphs and buffers that are kept between calls."""

    encodes: GraphPool[_EncodeGraph]
    clicks: GraphPool[_ClickGraph]
    states: dict[tuple[int, int], _StaticState] = field(default_factory=dict)

    def clear(self) -> None:
        self.encodes.clear()
        self.clicks.clear()
        self.states.clear()


class GraphRunner:
    """A `Runner` with CUDA graphs. Clicks, encodes and uploads run at the same time.

    failures: how many captures failed for another reason than full memory.
    """

    def __init__(
        self,
        encode: Encode,
        decode: Decode,
        device: GraphDevice,
        *,
        cuda_graphs: int,
        capture_at: int = CAPTURE_AT,
        most_objects: Callable[[tuple[int, int]], int] = lambda _grid: BUCKETS[-1],
    ) -> None:
        """cuda_graphs: most click graphs, and most encoder graphs, that are kept; 0 captures none.

        capture_at: see `GraphPool`. most_objects: grid (gh, gw) -> how many objects the decoder can
        take at once; more run in parts.
        """
        self._encode = encode
        self._decode = decode
        self._device = device
        self._cuda_graphs = cuda_graphs
        self._capture_at = capture_at
        self._most_objects = most_objects
        self._thread = GpuThread()
        self.failures = 0
        self.kept = _Kept(self._pool(cuda_graphs), self._pool(cuda_graphs))

    def encode(self, image: Arrays, size: tuple[int, int]) -> dict[str, Tensor]:
        with torch.inference_mode():
            given = self._upload(image)

        def start() -> tuple[dict[str, Tensor], Callable[[], object]]:
            with self._device.on(Lane.ENCODES):
                given.wait()
                state = self._with_room(lambda: self._run_encoder(given.tensors, size))
                return state, self._device.started(Lane.ENCODES)

        state, wait = self._thread.call(start, Lane.ENCODES)
        wait()
        return state

    def decode(self, state: TorchState, prompts: HostPrompts, wanted: Wanted) -> Answer:
        def click(rows: slice, bucket: int) -> dict[str, Tensor]:
            few = prompts.map(lambda array: array[rows])
            return self._with_room(lambda: self._click(state, few, bucket, wanted))

        def start() -> tuple[list[dict[str, Tensor]], Callable[[], object]]:
            runs = batches(len(prompts.labels), self.largest_bucket(_grid_of(state.geometry)))
            with self._device.on(Lane.CLICKS):
                parts = [click(rows, bucket) for rows, bucket in runs]
                return parts, self._device.started(Lane.CLICKS)

        parts, wait = self._thread.call(start, Lane.CLICKS)
        wait()
        arrays: dict[str, Any] = {
            name: np.concatenate([part[name].numpy() for part in parts])
            if len(parts) > 1
            else parts[0][name].numpy()
            for name in parts[0]
        }
        return Answer(arrays["coverage"], arrays.get("packed"), arrays.get("logits"))

    def largest_bucket(self, grid: tuple[int, int]) -> int:
        """The most objects that run at once on this grid."""
        return largest_bucket(self._most_objects(grid))

    def _upload(self, image: Arrays) -> Uploaded:
        """Upload in parallel with other calls. If memory is full, wait for them to end."""
        try:
            return self._device.upload(image, Lane.ENCODES)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise

        def again() -> Uploaded:
            with self._device.on(Lane.ENCODES):
                return self._with_room(lambda: self._device.upload(image, Lane.ENCODES))

        return self._thread.call(again, Lane.ENCODES)

    def _with_room(self, run: Callable[[], Result]) -> Result:
        """Call `run`. If the device's memory is full, drop what is kept and call it once more."""
        try:
            return run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Not inside the `except` block: there the error's traceback still holds the tensors of the
        # failed run, so their memory could not be released.
        self._device.finish()
        self.kept.clear()
        self._device.release_memory()
        try:
            return run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            said = str(error).partition("\n")[0]
        free, total = self._device.memory()
        raise ServerOverloaded(
            f"the GPU is out of memory ({free / 2**20:.0f} of {total / 2**20:.0f} MiB free; "
            f"{said}); click on fewer objects at once, or keep fewer images (lower cache_bytes)"
        )

    # -- graphs ----------------------------------------------------------------------------

    def _pool(self, capacity: int) -> GraphPool[Any]:
        return GraphPool(capacity, self._capture_at, before_drop=self._device.finish)

    def _graph(
        self, pool: GraphPool[Graph], key: GraphKey, capture: Callable[[], Graph]
    ) -> Graph | None:
        """The graph of `key`, or None to run without one.

        A capture that fails is not tried again, and the log says so. Raises the error if memory is
        full: then `_with_room` makes room.
        """
        if self._cuda_graphs == 0 or (self.failures >= _MOST_FAILURES and key not in pool):
            return None
        try:
            return pool.get(key, capture)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            pool.give_up(key)
            self.failures += 1
            last = self.failures == _MOST_FAILURES
            _LOG.warning(
                "capturing a CUDA graph for a grid of %dx%d and %d objects failed (%s); this shape "
                "runs without a graph, which gives the same results but takes longer%s",
                *(*key.grid, key.rows),
                str(error).partition("\n")[0],
                ". No more graphs are captured" if last else "",
            )
        return None

    # -- encoding --------------------------------------------------------------------------

    def _run_encoder(self, uploaded: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        # Not part of the graph, which is for one patch grid and pictures of many sizes.
        given = uploaded | {"image": resize(uploaded["image"], *size)}
        grid = (len(given["pos_rows"]), len(given["pos_cols"]))

        def capture() -> _EncodeGraph:
            inputs = {name: tensor.clone() for name, tensor in given.items()}
            return _EncodeGraph(
                self._device.capture(lambda: self._encode(*inputs.values()), Lane.ENCODES), inputs
            )

        graph = self._graph(self.kept.encodes, GraphKey(grid, 0), capture)
        if graph is None:
            return self._encode(*given.values())
        for name, tensor in given.items():
            graph.inputs[name].copy_(tensor)
        graph.captured.replay()
        # Copied, because the next replay overwrites the outputs.
        return {name: tensor.clone() for name, tensor in graph.captured.outputs.items()}

    # -- clicking --------------------------------------------------------------------------

    def _click(
        self, state: TorchState, prompts: HostPrompts, bucket: int, wanted: Wanted
    ) -> dict[str, Tensor]:
        """Start a click. Returns what leaves the device, see `GraphDevice.to_host`."""
        count = len(prompts.labels)
        graph = self._replay_click(state, prompts, bucket)
        if graph is None:
            given = self._device.upload(prompts.named(), Lane.CLICKS)
            given.wait()
            logits, coverage = self._decode(state.tensors, *given.tensors.values())
        else:
            logits, coverage = graph.captured.outputs
        leaving = {"coverage": coverage[:count]}
        if wanted.masks:
            packed = None if graph is None else self._replay_masks(graph, state.geometry)
            if packed is None:
                packed = pack_masks(logits[:count], state.geometry)
            leaving["packed"] = packed[:count]
        if wanted.logits:
            leaving["logits"] = logits[:count]
        return self._device.to_host(leaving)

    def _replay_click(
        self, state: TorchState, prompts: HostPrompts, bucket: int
    ) -> _ClickGraph | None:
        """Replay the click into its graph's outputs. None if this shape has no graph yet."""
        kept = self.kept
        key = GraphKey(_grid_of(state.geometry), bucket)
        graph = self._graph(
            kept.clicks,
            key,
            lambda: self._capture_click(
                self._static_state(state).tensors, bucket, state.geometry.coverage_shape
            ),
        )
        for unused in kept.states.keys() - kept.clicks.grids():
            del kept.states[unused]  # its grid has no graph any more
        if graph is None:
            return None
        self._static_state(state)
        # A new block each time: an earlier click may still be copied from the one before.
        pinned = self._device.pinned(graph.layout.nbytes)
        fill_prompts(_prompts_in(graph.layout, pinned), prompts)
        graph.block.copy_(pinned, non_blocking=True)
        graph.captured.replay()
        return graph

    def _replay_masks(self, click: _ClickGraph, geometry: Geometry) -> Tensor | None:
        """Pack the masks of the click that was replayed last. None if there is no graph yet."""
        logits, _ = click.captured.outputs

        def capture() -> _MaskGraph:
            taps = MaskTaps.of(geometry, logits.device)
            return _MaskGraph(
                self._device.capture(lambda: pack_masks(logits, geometry, taps), Lane.CLICKS), taps
            )

        key = GraphKey((geometry.height, geometry.width), len(logits))
        graph = self._graph(click.masks, key, capture)
        if graph is None:
            return None
        graph.captured.replay()
        return graph.captured.outputs

    def _static_state(self, state: TorchState) -> _StaticState:
        """The static state that the click graphs of this grid read, filled with `state`."""
        grid = _grid_of(state.geometry)
        static = self.kept.states.get(grid)
        if static is None:
            copies = {name: torch.empty_like(tensor) for name, tensor in state.tensors.items()}
            static = self.kept.states[grid] = _StaticState(copies)
        if static.serial != state.serial:
            for name, tensor in state.tensors.items():
                static.tensors[name].copy_(tensor)
            static.serial = state.serial
        return static

    def _capture_click(
        self, state: Mapping[str, Tensor], rows: int, coverage: tuple[int, int]
    ) -> _ClickGraph:
        layout = prompt_layout(rows, coverage)
        pinned = self._device.pinned(layout.nbytes)
        pinned.zero_()
        block = torch.empty_like(pinned, device=self._device.device)
        fill_prompts(_prompts_in(layout, pinned), None)  # warm-up runs see finite numbers
        block.copy_(pinned)
        views = Prompts(**_views(layout, block))
        captured = self._device.capture(lambda: self._decode(state, *views), Lane.CLICKS)
        return _ClickGraph(captured, layout, block, self._pool(_SIZES))


def _grid_of(geometry: Geometry) -> tuple[int, int]:
    return geometry.grid_height, geometry.grid_width


def _prompts_in(layout: Layout, pinned: Tensor) -> HostPrompts:
    """The arrays of a pinned block."""
    return Prompts(**layout.views(pinned.numpy()))


def _views(layout: Layout, block: Tensor) -> dict[str, Tensor]:
    """`Layout.views` for a tensor."""
    return {
        one.name: block[one.offset : one.offset + one.nbytes]
        .view(TORCH_TYPES[one.dtype])
        .view(one.shape)
        for one in layout.fields
    }
