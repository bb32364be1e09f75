"""Clicks and encodes as replays of captured graphs, on static buffers.

    upload   image ─► pinned ─► device, on a stream of its own: two images overlap
    encode   device copy ─► static inputs ─► replay ─► state, copied out of the graph's memory
    click    state ─► static state (an image's first click only)
             prompts ─► one pinned block ─► one static block ─► replay ─► masks, one bit a pixel

What a device must do for it is `GraphDevice`. `torch_cuda.CudaDevice` is the real one; tests
run everything here on the CPU's memory, where a replay runs the captured calls again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ois_client.clicks import SLOTS
from ois_client.errors import ServerOverloaded
from ois_runtime.engines import Arrays
from ois_runtime.torch_plan import GraphKey, GraphPool, Layout, batches, fill_prompts, prompt_layout
from ois_runtime.torch_postprocess import pack_masks
from ois_runtime.torch_run import Answer, Decode, Encode, Wanted
from ois_runtime.torch_state import TorchState

Result = TypeVar("Result")
Outputs = TypeVar("Outputs")

TORCH_TYPES = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.bool_): torch.bool,
}


@dataclass(frozen=True, slots=True, eq=False)
class Uploaded:
    """Tensors on their way; computing with them starts with `wait()`."""

    tensors: dict[str, Tensor]
    wait: Callable[[], object]


@dataclass(frozen=True, slots=True, eq=False)
class Captured(Generic[Outputs]):
    """`replay()` runs what was captured again, on the same inputs' memory, into `outputs`."""

    replay: Callable[[], object]
    outputs: Outputs


class GraphDevice(Protocol):
    """A GPU. Only `upload` may be called beside another call."""

    device: torch.device

    def computing(self) -> AbstractContextManager[None]:
        """In this block the calling thread's work goes to the device; at its end it is done."""
        ...

    def upload(self, arrays: Arrays) -> Uploaded: ...

    def pinned(self, nbytes: int) -> Tensor:
        """(nbytes,) uint8 zeros in the CPU's memory, which the device reads by itself."""
        ...

    def capture(self, run: Callable[[], Result]) -> Captured[Result]: ...

    def to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.generic]]:
        """Copies, finished."""
        ...

    def release_memory(self) -> None:
        """Give back what is only cached."""

    def memory(self) -> tuple[int, int]:
        """Free and all bytes."""
        ...


@dataclass(slots=True, eq=False)
class _StaticState:
    """An image state at fixed addresses, for all click graphs of a grid. serial: whose it is."""

    tensors: dict[str, Tensor]
    serial: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class _EncodeGraph:
    captured: Captured[dict[str, Tensor]]
    inputs: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _ClickGraph:
    """block: all prompts, on the device; pinned: its twin in the CPU's memory."""

    captured: Captured[tuple[Tensor, Tensor]]
    layout: Layout
    block: Tensor
    pinned: Tensor


@dataclass(slots=True, eq=False)
class _Kept:
    """What stays ready between calls."""

    encodes: GraphPool[_EncodeGraph]
    clicks: GraphPool[_ClickGraph]
    states: dict[tuple[int, int], _StaticState] = field(default_factory=dict)


class GraphRunner:
    """A `torch_run.Runner`. One call at a time computes; uploads of images run beside it."""

    def __init__(
        self, encode: Encode, decode: Decode, device: GraphDevice, *, cuda_graphs: int
    ) -> None:
        """cuda_graphs: click graphs kept at once, and as many of the encoder; 0 captures none."""
        self._encode = encode
        self._decode = decode
        self._device = device
        self._use_graphs = cuda_graphs > 0
        self._lock = threading.Lock()
        self.kept = _Kept(GraphPool(cuda_graphs), GraphPool(cuda_graphs))

    def encode(self, image: Arrays) -> dict[str, Tensor]:
        with torch.inference_mode():
            given = self._device.upload(image)
            with self._lock, self._device.computing():
                given.wait()
                return self._with_room(lambda: self._run_encoder(given.tensors))

    def decode(self, state: TorchState, prompts: Arrays, wanted: Wanted) -> Answer:
        def click(rows: slice, bucket: int) -> Answer:
            few = {name: array[rows] for name, array in prompts.items()}
            return self._with_room(lambda: self._click(state, few, bucket, wanted))

        with torch.inference_mode(), self._lock, self._device.computing():
            answers = [click(rows, bucket) for rows, bucket in batches(len(prompts["labels"]))]
        return answers[0] if len(answers) == 1 else _joined(answers)

    def _with_room(self, run: Callable[[], Result]) -> Result:
        """`run()`; when the device's memory is full, once more without what is kept ready."""
        try:
            return run()
        except torch.OutOfMemoryError:
            self.kept.encodes.clear()
            self.kept.clicks.clear()
            self.kept.states.clear()
            self._device.release_memory()
        try:
            return run()
        except torch.OutOfMemoryError as error:
            free, total = self._device.memory()
            raise ServerOverloaded(
                f"the GPU is out of memory ({free / 2**20:.0f} of {total / 2**20:.0f} MiB free); "
                "click on fewer objects at once, or keep fewer images (cache_bytes)"
            ) from error

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
        for name, tensor in given.items():
            graph.inputs[name].copy_(tensor)
        graph.captured.replay()
        # The next replay writes over the outputs; a state outlives it.
        return {name: tensor.clone() for name, tensor in graph.captured.outputs.items()}

    # -- clicking --------------------------------------------------------------------------

    def _click(self, state: TorchState, prompts: Arrays, bucket: int, wanted: Wanted) -> Answer:
        count = len(prompts["labels"])
        if self._use_graphs:
            logits, coverage = self._replay_click(state, prompts, bucket)
        else:
            given = self._device.upload(prompts)
            given.wait()
            logits, coverage = self._decode(state.tensors, *given.tensors.values())
        logits = logits[:count]
        leaving = {"coverage": coverage[:count]}
        if wanted.masks:
            leaving["packed"] = pack_masks(logits, state.geometry)
        if wanted.logits:
            leaving["logits"] = logits
        arrays: dict[str, Any] = self._device.to_host(leaving)
        return Answer(arrays["coverage"], arrays.get("packed"), arrays.get("logits"))

    def _replay_click(
        self, state: TorchState, prompts: Arrays, bucket: int
    ) -> tuple[Tensor, Tensor]:
        kept = self.kept
        grid = (state.geometry.grid_height, state.geometry.grid_width)
        static = kept.states.get(grid)
        if static is None:
            copies = {name: torch.empty_like(tensor) for name, tensor in state.tensors.items()}
            static = kept.states[grid] = _StaticState(copies)
        if static.serial != state.serial:
            for name, tensor in state.tensors.items():
                static.tensors[name].copy_(tensor)
            static.serial = state.serial
        key = GraphKey(grid, bucket)
        graph = kept.clicks.get(key, lambda: self._capture_click(static.tensors, key))
        for lost in kept.states.keys() - kept.clicks.grids():
            del kept.states[lost]  # the last graph of that grid has made room
        fill_prompts(graph.layout.views(graph.pinned.numpy()), prompts)
        graph.block.copy_(graph.pinned, non_blocking=True)
        graph.captured.replay()
        return graph.captured.outputs

    def _capture_click(self, state: Mapping[str, Tensor], key: GraphKey) -> _ClickGraph:
        layout = prompt_layout(key.rows, key.grid, SLOTS)
        pinned = self._device.pinned(layout.nbytes)
        block = torch.empty_like(pinned, device=self._device.device)
        fill_prompts(layout.views(pinned.numpy()), {})  # empty rows: what warms up is finite
        block.copy_(pinned)
        views = _views(layout, block)
        captured = self._device.capture(lambda: self._decode(state, *views.values()))
        return _ClickGraph(captured, layout, block, pinned)


def _views(layout: Layout, block: Tensor) -> dict[str, Tensor]:
    """As `Layout.views`, of a tensor."""
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
