"""The `local:` transport: runs the engines in this process, without a server.

It has the same feature store, checks and stages as a server. Options are part of the address or
keywords:

    local:                                    the engines in the default folder
    local:engines/mine                        the engines in another folder, on ONNX Runtime
    local:engines/mine?backend=openvino&precision=bf16
    local:cuda                                the default network on the GPU; also cuda:1
    local:ois-vitb.safetensors?device=cuda&precision=fp16

Before the `?` is a path, the name of a GPU, or nothing. Write `./cuda` for a folder called `cuda`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

import numpy as np

from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.images import Picture
from ois_client.contract.transport import (
    ClickReply,
    ClickRequest,
    EncodeReply,
    ModelInfo,
    Region,
)
from ois_runtime.engines.backends import (
    Compiling,
    EngineBackend,
    EngineOptions,
    Precision,
    is_device,
    load_engines,
    usual_precision,
)
from ois_runtime.engines.features import FeatureFolder, check_backend
from ois_runtime.engines.manifest import EXPORT_COMMAND
from ois_runtime.engines.pair import EnginePair
from ois_runtime.engines.segmenter import Segmenter, timed
from ois_runtime.engines.store import StoreStats
from ois_runtime.torch.checkpoint import default_checkpoint

ENGINES_VARIABLE = "OIS_ENGINES"
DEFAULT_ENGINES = Path("engines/ois-photo-cpu")
CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """The options of `local:`, in the address or as keywords of `Client`.

    backend: see `EngineBackend`. Default: torch if `device` is a GPU or the path is a checkpoint
    file, otherwise onnxruntime.
    device, threads, compiled_cache, checkpoint, cuda_graphs, compile, region: see
    `EngineOptions`.
    precision: see `EngineOptions`; default fp16 on a GPU, fp32 on the CPU.
    cache_bytes: memory of the feature store, on the device that the engines run on.
    ttl_s: seconds without a click after which an image's features are dropped.
    features: a folder that `ois encode` wrote; its images need no encode.
    longest: longest side of the network's images, instead of the exported one: smaller is faster
    and coarser (`Manifest.at`).
    """

    backend: str | None = None
    device: str = CPU
    precision: Precision | None = None
    threads: int | None = None
    compiled_cache: Path | None = None
    checkpoint: Path | None = None
    cuda_graphs: int | None = None
    region: Region = Region.AUTO
    compile: Compiling = Compiling.OFF
    cache_bytes: int = 2 * 2**30
    ttl_s: float = math.inf
    features: Path | None = None
    longest: int | None = None

    @classmethod
    def read(cls, address: str, given: Mapping[str, Any]) -> tuple[Path | None, Self]:
        """The path (None for the default) and the options of an address.

        address: what follows `local:`. given: the keywords. Raises `InvalidInput` if an option is
        unknown, given twice, or should be a number and is not.
        """
        path, _, query = address.partition("?")
        options: dict[str, Any] = {}
        if path != CPU and is_device(path):
            path, options["device"] = "", path
        fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        pairs = parse_qsl(query, keep_blank_values=True)
        for name, value in [*pairs, *given.items()]:
            if name not in fields:
                raise InvalidInput(
                    f"got the unknown option {name}; local: takes {', '.join(fields)}"
                )
            if name in options:
                raise InvalidInput(f"got the option {name} twice; expected one value")
            options[name] = _parse_value(name, value, fields[name])
        return (Path(path).expanduser() if path else None), cls(**options)

    def engine(self, path: Path | None) -> tuple[EngineBackend, EngineOptions]:
        """The backend and its options. Raises `InvalidInput` if a value is not possible."""
        on_gpu = self.device != CPU
        backend = EngineBackend.ONNXRUNTIME
        if on_gpu or (path is not None and path.is_file()):
            backend = EngineBackend.TORCH
        options = EngineOptions(
            threads=self.threads,
            precision=self.precision or usual_precision(self.device),
            compiled_cache=self.compiled_cache,
            device=self.device,
            checkpoint=self.checkpoint,
            region=self.region,
            compile=self.compile,
        )
        if self.cuda_graphs is not None:
            options = dataclasses.replace(options, cuda_graphs=self.cuda_graphs)
        return EngineBackend.parse(self.backend) if self.backend else backend, options


def default_engine_folder() -> Path:
    """`$OIS_ENGINES` if set, else `./engines/ois-photo-cpu`."""
    return Path(os.environ.get(ENGINES_VARIABLE) or DEFAULT_ENGINES)


def open_transport(address: str = "", **given: Any) -> LocalTransport:
    """Open the engines at `address`, with `LocalOptions` as keywords.

    Raises `EngineError` if there are no usable engines or no such GPU, and `InvalidInput` if an
    option is wrong.
    """
    path, options = LocalOptions.read(address, given)
    backend, engine_options = options.engine(path)
    folder = path or default_engine_folder()
    if path is None and backend is EngineBackend.TORCH:
        folder = engine_options.checkpoint or default_checkpoint(folder)
    if not folder.exists():
        origin = "" if path else f" (from {ENGINES_VARIABLE} or the default)"
        raise EngineError(f"no engines at {folder}{origin}. Make them with: {EXPORT_COMMAND}")
    features = options.features
    if features is not None:
        check_backend(backend)
    engines = load_engines(folder, backend, engine_options)
    if options.longest is not None:
        engines.manifest = engines.manifest.at(options.longest)
    return LocalTransport(
        engines,
        cache_bytes=options.cache_bytes,
        ttl_s=options.ttl_s,
        features=None if features is None else FeatureFolder(features, engines.manifest),
    )


class LocalTransport:
    """Runs an `EnginePair` in this process. Thread-safe."""

    def __init__(
        self,
        engines: EnginePair,
        *,
        cache_bytes: int = 2 * 2**30,
        ttl_s: float = math.inf,
        features: FeatureFolder | None = None,
    ) -> None:
        """Raises `EngineError` if the engines were exported for another preprocessing."""
        self._segmenter = Segmenter(
            engines, cache_bytes=cache_bytes, ttl_s=ttl_s, features=features
        )

    def info(self) -> ModelInfo:
        return self._segmenter.info()

    def stats(self) -> StoreStats:
        """Counters of the feature store."""
        return self._segmenter.stats()

    def encode(self, picture: Picture) -> EncodeReply:
        """Encode the picture, unless the store has its features.

        Raises `InvalidImage` if the picture cannot be decoded, and `EngineError` if its features
        are larger than the whole store.
        """
        encoded = self._segmenter.encode(picture)
        return EncodeReply(
            digest=picture.digest, cached=encoded.cached, timings_ms=encoded.timings_ms
        )

    def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        """Refine N objects of one image. With `picture`, encode it first if necessary.

        Raises `UnknownImage` if the store does not have the image and `picture` is None, and
        `InvalidInput` or a subclass if an array of the request is wrong, or if it is for a coarse
        answer that these engines do not have.
        """
        timings_ms: dict[str, float] = {}
        if picture is None:
            state = self._segmenter.find(request.digest)
        else:
            encoded = self._segmenter.encode(picture)
            state = encoded.state
            timings_ms.update(encoded.timings_ms)
        refined = self._segmenter.refine(state, request)
        timings_ms.update(refined.timings_ms)
        with timed(timings_ms, "postprocess"):
            masks = np.stack([refined.mask(row) for row in range(len(refined.coverage))])
        packed = refined.packed
        return ClickReply(
            masks=masks,
            coverage=refined.coverage,
            timings_ms=timings_ms,
            depth=refined.depth,
            logits=refined.logits if request.want_logits else None,
            order=refined.order,
            packed=None if packed is None else tuple(row.tobytes() for row in packed),
            answer=request.answer,
        )

    def close(self) -> None:
        """Free the engines and the features. Can be called twice."""
        self._segmenter.close()


def _parse_value(name: str, value: Any, kind: str) -> Any:
    """Convert text, as an address has it, to the type of the option; keep other values."""
    if not isinstance(value, str):
        return value
    try:
        if kind.startswith("int"):
            return int(value)
        if kind.startswith("float"):
            return float(value)
    except ValueError:
        raise InvalidInput(f"got {name} = {value!r}; expected a number") from None
    if kind.startswith("Precision"):
        return Precision.parse(value)
    if kind.startswith("Compiling"):
        return Compiling.parse(value)
    if kind.startswith("Region"):
        return Region.parse(value)
    return Path(value).expanduser() if kind.startswith("Path") else value
