"""The libraries that run engines, what each supports, and `load_engines`, which opens a folder."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.transport import Region
from ois_runtime.engines.manifest import EXPORT_COMMAND, Manifest
from ois_runtime.engines.pair import EnginePair, Graph, GraphPair
from ois_runtime.engines.region.pair import RegionPair, open_region_decoder

#: Spellings of earlier versions.
_FORMER_NAMES = {"f32": "fp32", "f16": "fp16"}


class Precision(StrEnum):
    """The arithmetic of an engine's convolutions and matrix products.

    INT8 is that of graphs which were exported in it. What they leave in floating point runs in the
    fastest precision that the backend has on this machine.

    largest: the largest finite value of the type.
    """

    largest: float

    FP32 = ("fp32", 3.4028234663852886e38)
    FP16 = ("fp16", 65504.0)
    BF16 = ("bf16", 3.3895313892515355e38)
    INT8 = ("int8", 127.0)

    def __new__(cls, value: str, largest: float) -> Precision:
        member = str.__new__(cls, value)
        member._value_ = value
        member.largest = largest
        return member

    @classmethod
    def parse(cls, name: str) -> Precision:
        """The precision called `name`. `f32` and `f16` are accepted, because old scripts use them.

        Raises `InvalidInput`, naming the known precisions, if there is no such precision.
        """
        name = _FORMER_NAMES.get(name, name)
        for precision in cls:
            if precision.value == name:
                return precision
        raise InvalidInput(f"got the precision {name!r}; expected one of {', '.join(cls)}")


class Compiling(StrEnum):
    """Whether the backend torch compiles the network when it opens (`torch.compile`)."""

    OFF = "off"
    ON = "on"
    MEASURED = "measured"  # each half, if that is faster on this device

    @classmethod
    def parse(cls, name: str) -> Compiling:
        """The value called `name`. Raises `InvalidInput`, naming the known ones, for another."""
        try:
            return cls(name)
        except ValueError:
            raise InvalidInput(
                f"got compile = {name!r}; expected one of {', '.join(cls)}"
            ) from None


#: Backends whose features and masks stay on a GPU, and their modules.
_ON_A_DEVICE = {
    "onnxruntime": "ois_runtime.engines.onnx_device",
    "tensorrt": "ois_runtime.tensorrt.pair",
}


class EngineBackend(StrEnum):
    """A library that runs engines.

    package: the Python package it needs; extra: the pip extra that installs it.
    module: our module that uses it.
    precisions: what it supports; devices: `"cpu"`, `"cuda"` or both.
    """

    package: str
    extra: str
    module: str
    precisions: tuple[Precision, ...]
    devices: tuple[str, ...]

    #: On a GPU the precision is that of the graphs; the option has no effect there.
    ONNXRUNTIME = (
        "onnxruntime",
        "onnxruntime",
        "cpu",
        "ois_runtime.engines.onnx_runtime",
        (Precision.FP32, Precision.INT8),
        ("cpu", "cuda"),
    )
    OPENVINO = (
        "openvino",
        "openvino",
        "cpu",
        "ois_runtime.engines.openvino",
        (Precision.FP32, Precision.BF16, Precision.INT8),
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
    #: Runs the plans of `ois build`. A plan has a fixed precision; the option has no effect.
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
        """The backend called `name`. Raises `InvalidInput`, naming the known ones, for another."""
        for backend in cls:
            if backend.value == name:
                return backend
        raise InvalidInput(f"got the backend {name!r}; expected one of {', '.join(cls)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How engines run on this machine.

    threads: CPU threads per run; None lets the library choose.
    precision: of the arithmetic, a `Precision` or a name that `Precision.parse` accepts.
    compiled_cache: folder for compiled engines (OpenVINO); None compiles at every start.
    device: `"cpu"`, `"cuda"`, `"cuda:1"` and so on.
    checkpoint: the network's file, for the backend torch; None searches for it
    (`ois_runtime.torch.checkpoint`).
    cuda_graphs: the most CUDA graphs that are kept (`ois_runtime.torch.graph_pool`); 0 uses none.
    compile: for the backend torch, a `Compiling` or the name of one.
    region: `auto` lets clicks decode only where their mask can change, if the engines were exported
    for it and passed its gate; `full` never does.
    Raises `InvalidInput` if a value is not possible.
    """

    threads: int | None = None
    precision: Precision = Precision.FP32
    compiled_cache: Path | None = None
    device: str = "cpu"
    checkpoint: Path | None = None
    cuda_graphs: int = 32
    region: Region = Region.AUTO
    compile: Compiling = Compiling.OFF

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InvalidInput(f"got {self.threads} threads; expected 1 or more")
        if not is_device(self.device):
            raise InvalidInput(f"got the device {self.device!r}; expected cpu, cuda or cuda:NUMBER")
        if self.cuda_graphs < 0:
            raise InvalidInput(f"got cuda_graphs = {self.cuda_graphs}; expected 0 or more")
        object.__setattr__(self, "precision", Precision.parse(self.precision))
        object.__setattr__(self, "region", Region.parse(self.region))
        object.__setattr__(self, "compile", Compiling.parse(self.compile))

    def check(self, backend: EngineBackend) -> None:
        """Raise `InvalidInput` if the backend does not support this device or precision."""
        kind = self.device.partition(":")[0]
        if kind not in backend.devices:
            raise InvalidInput(
                f"got the device {self.device}; the backend {backend} runs on "
                f"{', '.join(backend.devices)}. The backend {EngineBackend.TORCH} runs on "
                f"{', '.join(EngineBackend.TORCH.devices)}"
            )
        if self.compile is not Compiling.OFF and backend is not EngineBackend.TORCH:
            raise InvalidInput(
                f"got compile = {self.compile}; the backend {backend} does not compile, only "
                f"{EngineBackend.TORCH} does"
            )
        fixed = backend is EngineBackend.ONNXRUNTIME and kind != "cpu"
        if self.precision not in backend.precisions and not fixed:
            raise InvalidInput(
                f"got the precision {self.precision}; the backend {backend} supports "
                f"{', '.join(backend.precisions)}"
            )


def usual_precision(device: str) -> Precision:
    """The default precision of a device: fp16 on a GPU, fp32 on a CPU."""
    return Precision.FP32 if device == "cpu" else Precision.FP16


def is_device(name: str) -> bool:
    """Whether `name` is the name of a device, whether or not this machine has it."""
    return re.fullmatch(r"cpu|cuda(:\d+)?", name) is not None


class GraphBackend(Protocol):
    """The functions of a backend's module."""

    def describe(self, options: EngineOptions) -> str: ...

    def open_graph(self, path: Path, options: EngineOptions) -> Graph: ...


def load_engines(
    folder: str | Path,
    backend: EngineBackend = EngineBackend.ONNXRUNTIME,
    options: EngineOptions | None = None,
) -> EnginePair:
    """Load the engines in `folder`. For the backend torch it may also be a checkpoint file.

    Raises `EngineError` if the folder or a file is missing or damaged, or the backend's package is
    not installed, and `InvalidInput` if the backend does not support the device or precision.
    """
    options = options or EngineOptions()
    options.check(backend)
    folder = Path(folder)
    library: Any = _backend_module(backend, options.device)
    if backend is EngineBackend.TORCH:
        pair: EnginePair = library.open_engines(folder, options)
        return pair
    if backend in _ON_A_DEVICE and options.device != "cpu":
        on_device = importlib.import_module(_ON_A_DEVICE[backend])
        opened: EnginePair = on_device.open_pair(folder, options)
        return opened
    return _graph_pair(folder, library, options)


def load_region_engines(
    folder: str | Path, backend: EngineBackend, options: EngineOptions | None = None
) -> RegionPair:
    """Load engines whose decoder is in parts, whether or not they passed the gate of regions.

    For measurements. Raises `EngineError` and `InvalidInput` as `load_engines`, and if the decoder
    was exported whole only.
    """
    options = options or EngineOptions()
    options.check(backend)
    folder = Path(folder)
    library: GraphBackend = _backend_module(backend, options.device)
    manifest = Manifest.load(folder)
    return _region_pair(folder, manifest, library, options, library.describe(options))


def _graph_pair(folder: Path, library: GraphBackend, options: EngineOptions) -> EnginePair:
    manifest = Manifest.load(folder)
    int8 = manifest.precision == Precision.INT8
    if options.precision is Precision.INT8 and not int8:
        raise EngineError(
            f"got the precision int8; the engines in {folder} are {manifest.precision}. Make int8 "
            f"ones with: {EXPORT_COMMAND} --precision int8"
        )
    description = library.describe(options)
    if int8 and options.precision is not Precision.INT8:
        description += " with int8 layers"
    parts = manifest.region
    if options.region is Region.AUTO and parts is not None and parts.accepted:
        return _region_pair(folder, manifest, library, options, description)
    return GraphPair(
        manifest,
        description,
        library.open_graph(folder / manifest.encoder.file, options),
        library.open_graph(folder / manifest.decoder.file, options),
    )


def _region_pair(
    folder: Path,
    manifest: Manifest,
    library: GraphBackend,
    options: EngineOptions,
    description: str,
) -> RegionPair:
    def opened(path: Path) -> Graph:
        return library.open_graph(path, options)

    encoder = opened(folder / manifest.encoder.file)
    decoder = open_region_decoder(manifest, folder, opened)
    return RegionPair(manifest, description, encoder, decoder)


def _backend_module(backend: EngineBackend, device: str) -> ModuleType:
    try:
        importlib.import_module(backend.package)
    except ImportError as error:
        on_gpu = backend is EngineBackend.ONNXRUNTIME and device != "cpu"
        extra = "gpu" if on_gpu else backend.extra
        raise EngineError(
            f"the backend {backend} needs the package {backend.package}, which cannot be "
            f"imported here ({error}). Install it with: pip install 'ois-deploy[{extra}]'"
        ) from error
    return importlib.import_module(backend.module)
