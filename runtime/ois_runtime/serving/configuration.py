"""Limits and sizes of the serving model, from its `config.pbtxt` and the environment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ois_client.contract.errors import InvalidInput
from ois_client.contract.images import ImageLimits
from ois_runtime.engines.base import is_device

#: `cache_bytes` in the config is `OIS_CACHE_BYTES` in the environment, which counts more.
ENVIRONMENT_PREFIX = "OIS_"

DECODERS = ("auto", "process", "triton")

_KINDS: dict[str, Callable[[str], Any]] = {"float": float, "int": int, "str": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """Every field can be set; each has a default that suits one GPU or a few cores.

    cache_bytes, cache_ttl_s: the feature store's memory, and the idle seconds after which an
    image is forgotten.
    max_objects: objects in one request; decode_objects: objects in one run of the decoder.
    max_image_bytes, max_image_pixels: of a picture; checked before anything is decoded.
    max_reply_bytes: of the logits and order maps that a request may ask for.
    encode_workers, click_workers: requests worked on at once that bring a new image, or not.
    queue: requests that may wait in each of the two lines; one more is refused.
    torch_device, torch_precision, checkpoint: a device runs the network of this checkpoint in
    the model's own process, with PyTorch; "" leaves it to Triton's engine models.
    decoder: where clicks are decoded, unless one of the devices says it already: `triton` is the
    model `ois_decoder`, `process` this model's own process, with ONNX Runtime on the CPU; `auto`
    is `process` where the repository's engines are for a CPU and ONNX Runtime is here.
    feature_device: `cuda:0` etc. keeps what Triton's encoder gives in that GPU's memory and
    makes masks there, with PyTorch; "" keeps it in shared memory.
    """

    cache_bytes: int = 2 * 2**30
    cache_ttl_s: float = math.inf
    max_objects: int = 32
    decode_objects: int = 8
    max_image_bytes: int = 64 * 2**20
    max_image_pixels: int = 2**26
    max_reply_bytes: int = 256 * 2**20
    encode_workers: int = 2
    click_workers: int = 4
    queue: int = 64
    torch_device: str = ""
    torch_precision: str = "f32"
    checkpoint: str = ""
    feature_device: str = ""
    decoder: str = "auto"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) and not value > 0:
                raise InvalidInput(f"got {field.name} = {value}; expected more than 0")
        if self.torch_device and self.feature_device:
            raise InvalidInput("got torch_device and feature_device; expected one of them")
        if self.decoder not in DECODERS:
            raise InvalidInput(f"got decoder = {self.decoder!r}; expected {', '.join(DECODERS)}")
        for name in filter(None, (self.torch_device, self.feature_device)):
            if not is_device(name):
                raise InvalidInput(f"got the device {name!r}; expected cpu, cuda or cuda:NUMBER")

    @property
    def limits(self) -> ImageLimits:
        return ImageLimits(max_pixels=self.max_image_pixels, max_bytes=self.max_image_bytes)

    @classmethod
    def read(cls, parameters: Mapping[str, str], environment: Mapping[str, str]) -> ServingOptions:
        """Raises `InvalidInput` for a parameter that is unknown or no number."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(parameters.keys() - fields.keys())
        if unknown:
            raise InvalidInput(
                f"got the parameter {unknown[0]!r} in config.pbtxt; expected some of {[*fields]}"
            )
        values: dict[str, Any] = {}
        for name, field in fields.items():
            text = environment.get(ENVIRONMENT_PREFIX + name.upper()) or parameters.get(name)
            if text is None:
                continue
            try:
                values[name] = _KINDS[str(field.type)](text)
            except ValueError:
                raise InvalidInput(f"got {name} = {text!r}; expected a number") from None
        return cls(**values)
