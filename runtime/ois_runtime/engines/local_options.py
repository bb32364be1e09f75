"""Options of `local:`, in an address or as keywords.

    local:                                    the default folder's engines
    local:engines/mine                        another folder's, on ONNX Runtime
    local:engines/mine?backend=openvino&precision=bf16
    local:cuda                                the default network on the GPU; also cuda:1
    local:ois-vitb.safetensors?device=cuda&precision=fp16

In front of `?` stands a path, a GPU's name, or nothing; a folder called `cuda` is `./cuda`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

from ois_client.contract.errors import InvalidInput
from ois_runtime.engines.base import EngineBackend, EngineOptions, is_device, usual_precision

CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """Every option can stand in the address or be a keyword of `Client`.

    backend: see `EngineBackend`. Default: torch where `device` is a GPU or the path is a
    checkpoint file, else onnxruntime.
    device, threads, compiled_cache, checkpoint, cuda_graphs: see `EngineOptions`.
    precision: as there; default f16 on a GPU, f32 on the CPU.
    cache_bytes, ttl_s: the feature store's memory (on a GPU, the GPU's), and the idle seconds
    after which an image is forgotten.
    features: a folder that `ois encode` wrote; its images need no encode.
    """

    backend: str | None = None
    device: str = CPU
    precision: str | None = None
    threads: int | None = None
    compiled_cache: Path | None = None
    checkpoint: Path | None = None
    cuda_graphs: int | None = None
    cache_bytes: int = 2 * 2**30
    ttl_s: float = math.inf
    features: Path | None = None

    @classmethod
    def read(cls, address: str, given: Mapping[str, Any]) -> tuple[Path | None, Self]:
        """What stands behind `local:`, and keywords -> a path, None for the default, and options.

        Raises `InvalidInput` for an option that is unknown, given twice, or no number.
        """
        place, _, query = address.partition("?")
        words: dict[str, Any] = {}
        if place != CPU and is_device(place):
            place, words["device"] = "", place
        fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        pairs = parse_qsl(query, keep_blank_values=True)
        for name, value in [*pairs, *given.items()]:
            if name not in fields:
                raise InvalidInput(
                    f"got the unknown option {name}; local: takes {', '.join(fields)}"
                )
            if name in words:
                raise InvalidInput(f"got the option {name} twice; expected one value")
            words[name] = _value(name, value, fields[name])
        return (Path(place).expanduser() if place else None), cls(**words)

    def engine(self, path: Path | None) -> tuple[EngineBackend, EngineOptions]:
        """Which backend, and how. Raises `InvalidInput` for what cannot be."""
        on_gpu = self.device != CPU
        usual = EngineBackend.ONNXRUNTIME
        if on_gpu or (path is not None and path.is_file()):
            usual = EngineBackend.TORCH
        options = EngineOptions(
            threads=self.threads,
            precision=self.precision or usual_precision(self.device),
            compiled_cache=self.compiled_cache,
            device=self.device,
            checkpoint=self.checkpoint,
        )
        if self.cuda_graphs is not None:
            options = dataclasses.replace(options, cuda_graphs=self.cuda_graphs)
        return EngineBackend.parse(self.backend) if self.backend else usual, options


def _value(name: str, value: Any, kind: str) -> Any:
    """An address holds text and callers may pass text: numbers and paths are made of it."""
    if not isinstance(value, str):
        return value
    try:
        if kind.startswith("int"):
            return int(value)
        if kind.startswith("float"):
            return float(value)
    except ValueError:
        raise InvalidInput(f"got {name} = {value!r}; expected a number") from None
    return Path(value).expanduser() if kind.startswith("Path") else value
