"""Engines: what runs an encoder and a decoder, and which libraries can.

`load_engines(folder)` is the way in. `EnginePair` is what the rest of the runtime needs; the
ONNX backends implement only the smaller `Graph` (one engine file) and share `GraphPair`.
PyTorch runs the network itself, from its checkpoint, and is a `MaskEngines`: its device also
turns logits into masks.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import SLOTS
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.prompts import PROMPT_NAMES, Prompts
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import Manifest

ENCODER_INPUTS = ("image", "pos_rows", "pos_cols")
#: Not "coverage": a graph cannot have an input and an output of one name.
DECODER_OUTPUTS = ("logits", "new_coverage")

Arrays = Mapping[str, NDArray[np.generic]]
#: A prompt in NumPy arrays.
HostPrompts = Prompts[NDArray[Any]]

#: The names that manifests use -> those of options.
_SHORT = {"fp32": "f32", "fp16": "f16"}


class EngineBackend(StrEnum):
    """A library that runs engines; `extra` is the pip extra that installs `package`.

    devices: where it runs them, `"cpu"` and `"cuda"`. The first precision is the default.
    """

    package: str
    extra: str
    module: str
    precisions: tuple[str, ...]
    devices: tuple[str, ...]

    ONNXRUNTIME = (
        "onnxruntime",
        "onnxruntime",
        "cpu",
        "ois_runtime.engines.onnx_runtime",
        ("f32",),
        ("cpu",),
    )
    OPENVINO = (
        "openvino",
        "openvino",
        "cpu",
        "ois_runtime.engines.openvino",
        ("f32", "bf16"),
        ("cpu",),
    )
    TORCH = (
        "torch",
        "torch",
        "network",
        "ois_runtime.torch.engine",
        ("f32", "f16", "bf16"),
        ("cpu", "cuda"),
    )
    #: What `ois build` made; the arithmetic is the plan's own, whatever precision is asked for.
    TENSORRT = (
        "tensorrt",
        "cuda.bindings",
        "tensorrt",
        "ois_runtime.tensorrt.engine",
        ("f16", "f32", "bf16"),
        ("cuda",),
    )

    def __new__(
        cls,
        value: str,
        package: str,
        extra: str,
        module: str,
        precisions: tuple[str, ...],
        devices: tuple[str, ...],
    ) -> EngineBackend:
        member = str.__new__(cls, value)
        member._value_ = value
        member.package = package
        member.extra = extra
        member.module = module
        member.precisions = precisions
        member.devices = devices
        return member

    @classmethod
    def parse(cls, name: str) -> EngineBackend:
        """Raises `InvalidInput`, naming the known backends, for an unknown name."""
        for backend in cls:
            if backend.value == name:
                return backend
        raise InvalidInput(f"got the backend {name!r}; expected one of {', '.join(cls)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How engines run on this machine.

    threads: CPU threads of one run; None leaves the choice to the library.
    precision: arithmetic of the run, `"f32"` or, where backend and device can, `"f16"` or
    `"bf16"`; the longer names `"fp32"` and `"fp16"` mean the same.
    compiled_cache: folder for compiled engines (OpenVINO); None compiles at every start.
    device: `"cpu"`, `"cuda"` or `"cuda:1"` etc.
    checkpoint: the network's file, for the backend torch; None looks for it (`torch_checkpoint`).
    cuda_graphs: CUDA graphs kept at once, see `torch_plan`; 0 launches every kernel by itself.
    """

    threads: int | None = None
    precision: str = "f32"
    compiled_cache: Path | None = None
    device: str = "cpu"
    checkpoint: Path | None = None
    cuda_graphs: int = 32

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InvalidInput(f"got {self.threads} threads; expected 1 or more")
        if not is_device(self.device):
            raise InvalidInput(f"got the device {self.device!r}; expected cpu, cuda or cuda:NUMBER")
        if self.cuda_graphs < 0:
            raise InvalidInput(f"got cuda_graphs = {self.cuda_graphs}; expected 0 or more")
        object.__setattr__(self, "precision", _SHORT.get(self.precision, self.precision))

    def check(self, backend: EngineBackend) -> None:
        """Raise `InvalidInput` when the backend has not this device or precision."""
        kind = self.device.partition(":")[0]
        if kind not in backend.devices:
            raise InvalidInput(
                f"got the device {self.device}; the backend {backend} runs on "
                f"{', '.join(backend.devices)}, the backend {EngineBackend.TORCH} on "
                f"{', '.join(EngineBackend.TORCH.devices)}"
            )
        if self.precision not in backend.precisions:
            raise InvalidInput(
                f"got precision {self.precision!r}; {backend} has {', '.join(backend.precisions)}"
            )


def usual_precision(device: str) -> str:
    """What a device runs in unless asked otherwise: half precision on a GPU, which it is for."""
    return "f32" if device == "cpu" else "f16"


def is_device(name: str) -> bool:
    """Whether `name` has the form of a device; not whether this machine has it."""
    return re.fullmatch(r"cpu|cuda(:\d+)?", name) is not None


class EnginePair(Protocol):
    """An encoder and a decoder that belong together. Thread-safe."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def description(self) -> str:
        """Library, version and precision, for reports: `"onnxruntime 1.32.0 f32"`."""
        ...

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> ImageState:
        """image: (h, w, 3) uint8 RGB at the geometry's network size."""
        ...

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """One refinement of the N objects of `prompts`.

        Returns logits (N, h, w), > 0 = object, and the coverage (N, gh, gw) of the new masks.
        Raises `InvalidInput` if a prompt array has the wrong shape or type (`check_prompts`).
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DecodedMasks:
    """What a click gives where the masks are made on the engines' device.

    packed: (N, ceil(H * W / 8)) uint8, each row a mask of the original image as
    `masks.pack_mask` packs it. coverage: (N, gh, gw) uint8. logits: (N, h, w) float32, or None
    unless asked for.
    """

    packed: NDArray[np.uint8]
    coverage: NDArray[np.uint8]
    logits: NDArray[np.float32] | None


@runtime_checkable
class MaskEngines(Protocol):
    """An `EnginePair` that makes the masks too: one bit a pixel leaves its device."""

    def decode_masks(
        self, state: ImageState, prompts: HostPrompts, *, want_logits: bool
    ) -> DecodedMasks:
        """`EnginePair.decode` with masks in place of logits; the masks are those that
        `postprocess` makes of the logits, bit for bit."""
        ...


class Graph(Protocol):
    """One engine file, loaded. `run` is thread-safe and does not keep its arguments."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]: ...


class GraphBackend(Protocol):
    """What a backend's module offers."""

    def describe(self, options: EngineOptions) -> str: ...

    def open_graph(self, path: Path, options: EngineOptions) -> Graph: ...


def load_engines(
    folder: str | Path,
    backend: EngineBackend = EngineBackend.ONNXRUNTIME,
    options: EngineOptions | None = None,
) -> EnginePair:
    """Load the engines of `folder`; for the backend torch it may also be a checkpoint file.

    Raises `EngineError` when the folder or a file is missing or damaged, or the backend's
    package is not installed; `InvalidInput` for a precision that the backend does not have.
    """
    options = options or EngineOptions()
    options.check(backend)
    folder = Path(folder)
    library: Any = _backend_module(backend)
    if backend is EngineBackend.TORCH:
        pair: EnginePair = library.open_engines(folder, options)
        return pair
    return _graph_pair(folder, library, options)


def _graph_pair(folder: Path, library: GraphBackend, options: EngineOptions) -> GraphPair:
    manifest = Manifest.load(folder)
    return GraphPair(
        manifest,
        library.describe(options),
        library.open_graph(folder / manifest.encoder.file, options),
        library.open_graph(folder / manifest.decoder.file, options),
    )


def _backend_module(backend: EngineBackend) -> ModuleType:
    try:
        importlib.import_module(backend.package)
    except ImportError as error:
        raise EngineError(
            f"the backend {backend} needs the package {backend.package}, which cannot be "
            f"imported here ({error}). Install it with: pip install 'ois-deploy[{backend.extra}]'"
        ) from error
    return importlib.import_module(backend.module)


class GraphPair:
    """An `EnginePair` made of two graphs."""

    def __init__(
        self, manifest: Manifest, description: str, encoder: Graph, decoder: Graph
    ) -> None:
        """Raises `EngineError` when the two files do not fit together."""
        self.manifest = manifest
        self.description = description
        self._encoder = encoder
        self._decoder = decoder
        for role, graph, offered, wanted in (
            ("encoder", encoder, {*ENCODER_INPUTS}, {"depth", "depth_min", "depth_max"}),
            ("decoder", decoder, {*PROMPT_NAMES, *encoder.outputs}, {*DECODER_OUTPUTS}),
        ):
            unknown = sorted(set(graph.inputs) - offered)
            missing = sorted(wanted - set(graph.outputs))
            if unknown or missing:
                raise EngineError(
                    f"{manifest.name}: the {role} "
                    + (f"wants inputs that nothing gives: {', '.join(unknown)}" if unknown else "")
                    + ("; it " if unknown and missing else "")
                    + (f"lacks the outputs {', '.join(missing)}" if missing else "")
                    + ". The two engines are not from one export"
                )

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> ImageState:
        check_array("image", image, (geometry.network_height, geometry.network_width, 3), np.uint8)
        rows, columns = geometry.position_matrices(self.manifest.position_table)
        feeds: Arrays = {"image": image, "pos_rows": rows, "pos_cols": columns}
        arrays = self._encoder.run({name: feeds[name] for name in self._encoder.inputs})
        return ImageState(arrays, geometry)

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        return run_decoder(self._decoder, self.manifest, state, prompts)


def run_decoder(
    decoder: Graph, manifest: Manifest, state: ImageState, prompts: HostPrompts
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """`EnginePair.decode` by one graph."""
    geometry = state.geometry
    check_prompts(prompts, geometry)
    grid = (geometry.grid_height, geometry.grid_width)
    size = (geometry.network_height, geometry.network_width)
    count = len(prompts.labels)
    feeds: Arrays = {**state.arrays, **prompts.named()}
    outputs = decoder.run({name: feeds[name] for name in decoder.inputs})
    logits, new_coverage = (outputs[name] for name in DECODER_OUTPUTS)
    if logits.shape != (count, *size) or new_coverage.shape != (count, *grid):
        raise EngineError(
            f"{manifest.name}: the decoder gave logits {logits.shape} and coverage "
            f"{new_coverage.shape}; expected {(count, *size)} and {(count, *grid)}"
        )
    return (
        logits.astype(np.float32, copy=False),
        new_coverage.astype(np.uint8, copy=False),
    )


def check_prompts(prompts: HostPrompts, geometry: Geometry) -> None:
    """Raise `InvalidInput` unless every array has the shape and type that `Prompts` says.

    Every `EnginePair.decode` begins with this, so nothing above it checks shapes again.
    """
    count = len(prompts.labels)
    check_array("points", prompts.points, (count, SLOTS, 2), np.float32)
    check_array("labels", prompts.labels, (count, SLOTS), np.int32)
    grid = (geometry.grid_height, geometry.grid_width)
    check_array("coverage", prompts.coverage, (count, *grid), np.uint8)
    check_array("has_previous", prompts.has_previous, (count,), np.bool_)


def check_array(
    name: str, array: NDArray[np.generic], shape: tuple[int, ...], kind: type[np.generic]
) -> None:
    """Raise `InvalidInput` unless `array` has this shape and type."""
    if array.shape != shape or array.dtype != kind:
        raise InvalidInput(
            f"got {name} of shape {array.shape} and type {array.dtype}; expected {shape} "
            f"{np.dtype(kind)}"
        )
