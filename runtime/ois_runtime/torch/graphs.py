"""Runs encodes and clicks on a GPU by replaying captured CUDA graphs on static buffers.

The first use of a shape runs without a graph; a later use captures one (`GraphPool`):

    upload   image ─► pinned ─► device, on its own stream, so it overlaps with other work
    encode   device copy ─► static inputs ─► replay ─► state, copied out of the graph's memory
    click    state ─► static state (only at the first click on an image)
             prompts ─► one pinned block ─► one static block ─► replay ─► masks, one bit per pixel

The GPU is behind the interface `cuda.GraphDevice`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ois_client.contract.clicks import Prompts
from ois_client.contract.errors import ServerOverloaded
from ois_runtime.engines.pair import Arrays, HostPrompts
from ois_runtime.torch.cuda import TORCH_TYPES, Captured, GraphDevice, Uploaded
from ois_runtime.torch.device import is_out_of_memory
from ois_runtime.torch.graph_pool import (
    CAPTURE_AT,
    GraphKey,
    GraphPool,
    Layout,
    batches,
    fill_prompts,
    prompt_layout,
)
from ois_runtime.torch.image_state import TorchState
from ois_runtime.torch.masks import pack_masks
from ois_runtime.torch.runner import Answer, Decode, Encode, Wanted

Result = TypeVar("Result")


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
class _ClickGraph:
    """block: all prompts, on the device. pinned: the same block in CPU memory."""

    captured: Captured[tuple[Tensor, Tensor]]
    layout: Layout
    block: Tensor
    pinned: Tensor


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
    """A `Runner` with CUDA graphs. One call computes at a time; image uploads run in parallel."""

    def __init__(
        self,
        encode: Encode,
        decode: Decode,
        device: GraphDevice,
        *,
        cuda_graphs: int,
        capture_at: int = CAPTURE_AT,
    ) -> None:
        """cuda_graphs: most click graphs, and most encoder graphs, that are kept; 0 captures none.

        capture_at: see `GraphPool`.
        """
        self._encode = encode
        self._decode = decode
        self._device = device
        self._use_graphs = cuda_graphs > 0
        self._lock = threading.Lock()
        self.kept = _Kept(GraphPool(cuda_graphs, capture_at), GraphPool(cuda_graphs, capture_at))

    def encode(self, image: Arrays) -> dict[str, Tensor]:
        with torch.inference_mode():
            given = self._upload(image)
            with self._lock, self._device.computing():
                given.wait()
                return self._with_room(lambda: self._run_encoder(given.tensors))

    def decode(self, state: TorchState, prompts: HostPrompts, wanted: Wanted) -> Answer:
        def click(rows: slice, bucket: int) -> Answer:
            few = prompts.map(lambda array: array[rows])
            return self._with_room(lambda: self._click(state, few, bucket, wanted))

        with torch.inference_mode(), self._lock, self._device.computing():
            answers = [click(rows, bucket) for rows, bucket in batches(len(prompts.labels))]
        return answers[0] if len(answers) == 1 else _joined(answers)

    def _upload(self, image: Arrays) -> Uploaded:
        """Upload in parallel with another call. If memory is full, wait for that call to end."""
        try:
            return self._device.upload(image)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        with self._lock, self._device.computing():
            return self._with_room(lambda: self._device.upload(image))

    def _with_room(self, run: Callable[[], Result]) -> Result:
        """Call `run`. If the device's memory is full, drop what is kept and call it once more."""
        try:
            return run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Not inside the `except` block: there the error's traceback still holds the tensors of the
        # failed run, so their memory could not be released.
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

    # -- encoding --------------------------------------------------------------------------

    def _run_encoder(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self._use_graphs:
            return self._encode(*given.values())
        grid = (len(given["pos_rows"]), len(given["pos_cols"]))

        def capture() -> _EncodeGraph:
            inputs = {name: tensor.clone() for name, tensor in given.items()}
            return _EncodeGraph(
                self._device.capture(lambda: self._encode(*inputs.values())), inputs
            )

        graph = self.kept.encodes.get(GraphKey(grid, 0), capture)
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
    ) -> Answer:
        count = len(prompts.labels)
        outputs = self._replay_click(state, prompts, bucket) if self._use_graphs else None
        if outputs is None:
            given = self._device.upload(prompts.named())
            given.wait()
            outputs = self._decode(state.tensors, *given.tensors.values())
        logits, coverage = outputs
        logits = logits[:count]
        leaving = {"coverage": coverage[:count]}
        if wanted.masks:
            leaving["packed"] = pack_masks(logits, state.geometry)
        if wanted.logits:
            leaving["logits"] = logits
        arrays: dict[str, Any] = self._device.to_host(leaving)
        return Answer(arrays["coverage"], arrays.get("packed"), arrays.get("logits"))

    def _replay_click(
        self, state: TorchState, prompts: HostPrompts, bucket: int
    ) -> tuple[Tensor, Tensor] | None:
        """The click as a replay, or None if this shape has no graph yet."""
        kept = self.kept
        key = GraphKey((state.geometry.grid_height, state.geometry.grid_width), bucket)
        graph = kept.clicks.get(
            key, lambda: self._capture_click(self._static_state(state).tensors, key)
        )
        for unused in kept.states.keys() - kept.clicks.grids():
            del kept.states[unused]  # its grid has no graph any more
        if graph is None:
            return None
        self._static_state(state)
        fill_prompts(_prompts_in(graph.layout, graph.pinned), prompts)
        graph.block.copy_(graph.pinned, non_blocking=True)
        graph.captured.replay()
        return graph.captured.outputs

    def _static_state(self, state: TorchState) -> _StaticState:
        """The static state that the click graphs of this grid read, filled with `state`."""
        grid = (state.geometry.grid_height, state.geometry.grid_width)
        static = self.kept.states.get(grid)
        if static is None:
            copies = {name: torch.empty_like(tensor) for name, tensor in state.tensors.items()}
            static = self.kept.states[grid] = _StaticState(copies)
        if static.serial != state.serial:
            for name, tensor in state.tensors.items():
                static.tensors[name].copy_(tensor)
            static.serial = state.serial
        return static

    def _capture_click(self, state: Mapping[str, Tensor], key: GraphKey) -> _ClickGraph:
        layout = prompt_layout(key.rows, key.grid)
        pinned = self._device.pinned(layout.nbytes)
        block = torch.empty_like(pinned, device=self._device.device)
        fill_prompts(_prompts_in(layout, pinned), None)  # warm-up runs see finite numbers
        block.copy_(pinned)
        views = Prompts(**_views(layout, block))
        captured = self._device.capture(lambda: self._decode(state, *views))
        return _ClickGraph(captured, layout, block, pinned)


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


def _joined(answers: list[Answer]) -> Answer:
    def rows(arrays: list[Any]) -> Any:
        return None if arrays[0] is None else np.concatenate(arrays)

    return Answer(
        rows([answer.coverage for answer in answers]),
        rows([answer.packed for answer in answers]),
        rows([answer.logits for answer in answers]),
    )
