"""Engines: what runs an encoder and a decoder, and which libraries can.

`load_engines(folder)` is the way in. `EnginePair` is what the rest of the runtime needs; the
ONNX backends implement only the smaller `Graph` (one engine file) and share `GraphPair`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ois_client.clicks import SLOTS
from ois_client.errors import EngineError, InvalidInput
from ois_client.geometry import Geometry
from ois_runtime.manifest import Manifest
from ois_runtime.state import ImageState

ENCODER_INPUTS = ("image", "pos_rows", "pos_cols")
CLICK_INPUTS = ("points", "labels", "coverage", "has_previous")
#: Not "coverage": a graph cannot have an input and an output of one name.
DECODER_OUTPUTS = ("logits", "new_coverage")

Arrays = Mapping[str, NDArray[np.generic]]


class EngineBackend(StrEnum):
    """A library that runs engine files; `extra` is the pip extra that installs `package`."""

    package: str
    extra: str
    module: str
    precisions: tuple[str, ...]

    ONNXRUNTIME = ("onnxruntime", "onnxruntime", "cpu", "ois_runtime.ort", ("f32",))
    OPENVINO = ("openvino", "openvino", "cpu", "ois_runtime.openvino", ("f32", "bf16"))

    def __new__(
        cls, value: str, package: str, extra: str, module: str, precisions: tuple[str, ...]
    ) -> EngineBackend:
        member = str.__new__(cls, value)
        member._value_ = value
        member.package = package
        member.extra = extra
        member.module = module
        member.precisions = precisions
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
    precision: arithmetic of the run, `"f32"` or, where the backend and the CPU can, `"bf16"`.
    compiled_cache: folder for compiled engines (OpenVINO); None compiles at every start.
    """

    threads: int | None = None
    precision: str = "f32"
    compiled_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InvalidInput(f"got {self.threads} threads; expected 1 or more")


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
        self,
        state: ImageState,
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        coverage: NDArray[np.uint8],
        has_previous: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """One refinement of N objects.

        points: (N, 48, 2), (x, y) in network pixels; labels: (N, 48), 1, 0, -1 = empty slot;
        coverage: (N, gh, gw) of the previous masks; has_previous: (N,).
        Returns logits (N, h, w), > 0 = object, and the coverage (N, gh, gw) of the new masks.
        """
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
    """Load the engines of `folder`.

    Raises `EngineError` when the folder or a file is missing or damaged, or the backend's
    package is not installed; `InvalidInput` for a precision that the backend does not have.
    """
    options = options or EngineOptions()
    if options.precision not in backend.precisions:
        raise InvalidInput(
            f"got precision {options.precision!r}; {backend} has {', '.join(backend.precisions)}"
        )
    folder = Path(folder)
    manifest = Manifest.load(folder)
    library = _backend_module(backend)
    return GraphPair(
        manifest,
        library.describe(options),
        library.open_graph(folder / manifest.encoder.file, options),
        library.open_graph(folder / manifest.decoder.file, options),
    )


def _backend_module(backend: EngineBackend) -> GraphBackend:
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
            ("decoder", decoder, {*CLICK_INPUTS, *encoder.outputs}, {*DECODER_OUTPUTS}),
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
        _check("image", image, (geometry.network_height, geometry.network_width, 3), np.uint8)
        rows, columns = geometry.position_matrices(self.manifest.position_table)
        feeds: Arrays = {"image": image, "pos_rows": rows, "pos_cols": columns}
        arrays = self._encoder.run({name: feeds[name] for name in self._encoder.inputs})
        return ImageState(arrays, geometry)

    def decode(
        self,
        state: ImageState,
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        coverage: NDArray[np.uint8],
        has_previous: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        geometry = state.geometry
        grid = (geometry.grid_height, geometry.grid_width)
        size = (geometry.network_height, geometry.network_width)
        count = len(points)
        _check("points", points, (count, SLOTS, 2), np.float32)
        _check("labels", labels, (count, SLOTS), np.int32)
        _check("coverage", coverage, (count, *grid), np.uint8)
        _check("has_previous", has_previous, (count,), np.bool_)
        feeds: Arrays = {
            **state.arrays,
            "points": points,
            "labels": labels,
            "coverage": coverage,
            "has_previous": has_previous,
        }
        outputs = self._decoder.run({name: feeds[name] for name in self._decoder.inputs})
        logits, new_coverage = (outputs[name] for name in DECODER_OUTPUTS)
        if logits.shape != (count, *size) or new_coverage.shape != (count, *grid):
            raise EngineError(
                f"{self.manifest.name}: the decoder gave logits {logits.shape} and coverage "
                f"{new_coverage.shape}; expected {(count, *size)} and {(count, *grid)}"
            )
        return (
            logits.astype(np.float32, copy=False),
            new_coverage.astype(np.uint8, copy=False),
        )


def _check(
    name: str, array: NDArray[np.generic], shape: tuple[int, ...], kind: type[np.generic]
) -> None:
    if array.shape != shape or array.dtype != kind:
        raise InvalidInput(
            f"got {name} of shape {array.shape} and type {array.dtype}; expected {shape} "
            f"{np.dtype(kind)}"
        )
