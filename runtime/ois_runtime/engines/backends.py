"""The libraries that run engines: what each can do, and how to open an engine folder with it."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from ois_client.contract.errors import EngineError, InvalidInput
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.pair import EnginePair, Graph, GraphPair

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
