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

_FORMER_NAMES = {"f32": "fp32", "f16": "fp16"}


class Precision(StrEnum):
    """The arithmetic of an engine's convolutions and matrix products.

    largest: the largest finite value of the type.
    """

    largest: float

    FP32 = ("fp32", 3.4028234663852886e38)
    FP16 = ("fp16", 65504.0)
    BF16 = ("bf16", 3.3895313892515355e38)

    def __new__(cls, value: str, largest: float) -> Precision:
        member = str.__new__(cls, value)
        member._value_ = value
        member.largest = largest
        return member

    @classmethod
    def parse(cls, name: str) -> Precision:
        """Raises `InvalidInput`, naming the known precisions, for an unknown name.

        Scripts of earlier versions use `f32` and `f16`, so these are accepted here.
        """
        name = _FORMER_NAMES.get(name, name)
        for precision in cls:
            if precision.value == name:
                return precision
        raise InvalidInput(f"got the precision {name!r}; expected one of {', '.join(cls)}")


class EngineBackend(StrEnum):
    """A library that runs engines; `extra` is the pip extra that installs `package`.

    devices: where it runs them, `"cpu"` and `"cuda"`. The first precision is the default.
    """

    package: str
    extra: str
    module: str
    precisions: tuple[Precision, ...]
    devices: tuple[str, ...]

    ONNXRUNTIME = (
        "onnxruntime",
        "onnxruntime",
        "cpu",
        "ois_runtime.engines.onnx_runtime",
        (Precision.FP32,),
        ("cpu",),
    )
    OPENVINO = (
        "openvino",
        "openvino",
        "cpu",
        "ois_runtime.engines.openvino",
        (Precision.FP32, Precision.BF16),
        ("cpu",),
    )
    TORCH = (
        "torch",
        "torch",
        "network",
        "ois_runtime.torch.engine",
        (Precision.FP32, Precision.FP16, Precision.BF16),
        ("cpu", "cuda"),
    )
    #: What `ois build` made; the arithmetic is the plan's own, whatever precision is asked for.
    TENSORRT = (
        "tensorrt",
        "cuda.bindings",
        "tensorrt",
        "ois_runtime.tensorrt.engine",
        (Precision.FP16, Precision.FP32, Precision.BF16),
        ("cuda",),
    )

    def __new__(
        cls,
        value: str,
        package: str,
        extra: str,
        module: str,
        precisions: tuple[Precision, ...],
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
    precision: arithmetic of the run; a name that `Precision.parse` knows is accepted too. Not
    every backend and device has every precision.
    compiled_cache: folder for compiled engines (OpenVINO); None compiles at every start.
    device: `"cpu"`, `"cuda"` or `"cuda:1"` etc.
    checkpoint: the network's file, for the backend torch; None looks for it (`torch_checkpoint`).
    cuda_graphs: CUDA graphs kept at once, see `torch_plan`; 0 launches every kernel by itself.
    """

    threads: int | None = None
    precision: Precision = Precision.FP32
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
        object.__setattr__(self, "precision", Precision.parse(self.precision))

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
                f"got the precision {self.precision}; the backend {backend} has "
                f"{', '.join(backend.precisions)}"
            )


def usual_precision(device: str) -> Precision:
    """The default precision of a device: fp16 on a GPU, fp32 on a CPU."""
    return Precision.FP32 if device == "cpu" else Precision.FP16


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
