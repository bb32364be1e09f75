"""Clicks by CUDA graphs of ONNX Runtime: one launch instead of hundreds.

ONNX Runtime captures a graph at the first run with a new `gpu_graph_id`, and replays it on the same
addresses from then on. So each patch grid and bucket of objects has buffers of its own, in which
inputs and results lie; the features are copied to the grid's buffers at an image's first click.
PyTorch makes that copy, on the GPU.

Which shapes get a graph, and in which buckets objects run, is as in the torch engine
(`torch.graph_pool`), with one difference: ONNX Runtime cannot drop a graph, so there is a most, and
further shapes run without. *Not run on a GPU yet*; on the CPU provider the same code runs, where
`gpu_graph_id` has no effect.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnxruntime

from ois_client.contract.clicks import SLOTS, Prompts
from ois_client.contract.errors import EngineError
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.pair import DECODER_OUTPUTS, HostPrompts
from ois_runtime.torch.graph_pool import (
    BUCKETS,
    CAPTURE_AT,
    GraphKey,
    GraphPool,
    bucket_of,
    fill_prompts,
)

if TYPE_CHECKING:
    from ois_runtime.engines.onnx_device import OrtSession, OrtState, Place

_LOG = logging.getLogger(__name__)
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Features:
    """The buffers of a patch grid's features. serial: of the state that they hold."""

    tensors: Mapping[str, Any]
    serial: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """Everything that one graph reads and writes. host: prompts on the CPU, to be copied."""

    binding: Any
    options: Any
    host: HostPrompts
    prompts: Mapping[str, Any]
    results: Sequence[Any]


@dataclass(slots=True, eq=False)
class OrtGraphs:
    """The graphs of a decoder. Thread-safe.

    most: how many graphs are captured.
    """

    session: OrtSession
    place: Place
    most: int
    capture_at: int = CAPTURE_AT
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _features: dict[tuple[int, int], _Features] = field(default_factory=dict)
    pool: GraphPool[_Graph] = field(init=False)

    def __post_init__(self) -> None:
        self.pool = GraphPool(self.most, self.capture_at)

    def run(
        self, state: OrtState, prompts: HostPrompts, use: Callable[[Sequence[Any]], Result]
    ) -> Result | None:
        """Replay the click and return what `use` makes of logits and coverage.

        They are `OrtValue`s with at least N rows, valid until `use` returns. Returns None if this
        shape has no graph (yet): run it without one.
        """
        count = len(prompts.labels)
        if count == 0 or count > BUCKETS[-1]:
            return None
        geometry = state.geometry
        key = GraphKey((geometry.grid_height, geometry.grid_width), bucket_of(count))
        with self._lock:
            if key not in self.pool and len(self.pool) >= self.most:
                return None
            try:
                graph = self.pool.get(key, lambda: self._capture(state, key.rows))
            except EngineError as error:
                self.pool.give_up(key)
                _LOG.warning(
                    "ONNX Runtime cannot capture a CUDA graph for a grid of %dx%d and %d objects "
                    "(%s); this shape runs without a graph, which takes longer",
                    *(*key.grid, key.rows, str(error).partition("\n")[0]),
                )
                return None
            if graph is None:
                return None
            self._fill(state)
            fill_prompts(graph.host, prompts)
            for name, array in graph.host.named().items():
                graph.prompts[name].update_inplace(array)
            self.session.run_bound(graph.binding, graph.options)
            return use(graph.results)

    def _capture(self, state: OrtState, rows: int) -> _Graph:
        """Buffers for `rows` objects, and a first run, in which ONNX Runtime captures its graph."""
        self._fill(state)
        geometry = state.geometry
        host = _empty_prompts(rows, geometry)
        prompts = {name: self._value(array) for name, array in host.named().items()}
        given = {**self._features[_grid(geometry)].tensors, **prompts}
        sizes = {
            "logits": (rows, geometry.network_height, geometry.network_width),
            "new_coverage": (rows, *geometry.coverage_shape),
        }
        results = {
            name: self._empty(sizes[name], self.session.types[name]) for name in DECODER_OUTPUTS
        }
        binding = self.session.binding(given, results)
        options = onnxruntime.RunOptions()
        # Positive, because 0 is what a run without an id has.
        options.add_run_config_entry("gpu_graph_id", str(len(self.pool) + 1))
        self.session.run_bound(binding, options)
        return _Graph(binding, options, host, prompts, [results[name] for name in DECODER_OUTPUTS])

    def _fill(self, state: OrtState) -> None:
        """Copy the features to their grid's buffers, unless they are there."""
        grid = _grid(state.geometry)
        held = self._features.get(grid)
        if held is None:
            held = self._features[grid] = _Features(
                {
                    name: self._empty(tuple(value.shape()), value.data_type())
                    for name, value in state.tensors.items()
                    if name in self.session.inputs
                }
            )
        if held.serial == state.serial:
            return
        import torch

        with torch.inference_mode():
            for name, target in held.tensors.items():
                torch.from_dlpack(target).copy_(torch.from_dlpack(state.tensors[name]))
        if self.place.kind == "cuda":
            # ONNX Runtime has a stream of its own.
            torch.cuda.current_stream(self.place.index).synchronize()
        held.serial = state.serial

    def _value(self, array: np.ndarray[Any, Any]) -> Any:
        kind, index = self.place.kind, self.place.index
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, kind, index)

    def _empty(self, shape: tuple[int, ...], kind: str) -> Any:
        dtype = _TYPES[kind]
        place = self.place
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            shape, dtype, place.kind, place.index
        )


def _grid(geometry: Geometry) -> tuple[int, int]:
    return geometry.grid_height, geometry.grid_width


def _empty_prompts(rows: int, geometry: Geometry) -> HostPrompts:
    prompts: HostPrompts = Prompts(
        points=np.zeros((rows, SLOTS, 2), dtype=np.float32),
        labels=np.zeros((rows, SLOTS), dtype=np.int32),
        coverage=np.zeros((rows, *geometry.coverage_shape), dtype=np.uint8),
        has_previous=np.zeros(rows, dtype=np.bool_),
    )
    fill_prompts(prompts, None)
    return prompts
