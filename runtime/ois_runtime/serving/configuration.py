"""What a serving model is configured with: its options, its manifest and its input limits.

Options come from `config.pbtxt` and the environment. The engine models have no options of their
own, but clients can reach them without `ois_segment`, so they check the same limits: a request of
a few kilobytes with ten thousand objects would otherwise allocate gigabytes. (TensorRT engines
refuse inputs outside their profiles; ONNX graphs accept any size.)
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ois_client.contract.clicks import PROMPT_NAMES
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.images import ImageLimits
from ois_client.contract.transport import Region
from ois_client.wire import MODEL, check_objects
from ois_runtime.engines.backends import is_device
from ois_runtime.engines.manifest import MANIFEST_FILE, Manifest, TensorSpec

#: The option `cache_bytes` is `OIS_CACHE_BYTES` in the environment. The environment wins.
ENVIRONMENT_PREFIX = "OIS_"

DECODERS = ("auto", "process", "triton")
REGIONS = tuple(Region)
CACHE_SALTS = ("", "token")

_KINDS: dict[str, Callable[[str], Any]] = {
    "float": float, "int": int, "int | None": int, "str": str
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """Options of a serving model. The defaults suit one GPU or a few CPU cores.

    cache_bytes: memory of the feature store.
    cache_ttl_s: seconds without a click after which an image's features are dropped.
    longest: longest side of the network's images; default as exported (`Manifest.at`). Only from
    the environment, because all models must have the same.
    cache_salt: `token` keeps the features of every token apart (`salt_of`); "" shares them.
    max_objects: objects per request; decode_objects: objects per run of the decoder.
    max_image_bytes, max_image_pixels: limits of an image, checked before it is decoded.
    max_reply_bytes: limit of the logits and order maps in one reply.
    encode_workers, click_workers: threads for requests that need an encode, and for the others.
    queue: requests that may wait in each of the two queues; further ones are refused.
    queue_bytes: of the requests that wait or are worked on, in each of the two queues.
    torch_device, torch_precision, checkpoint: run the network of this checkpoint with PyTorch on
    this device, in the model's own process; "" uses Triton's engine models.
    torch_compile: see `EngineOptions.compile`.
    decoder: where clicks are decoded when neither device is set. `triton` uses the model
    `ois_decoder`; `process` uses ONNX Runtime on the CPU in this model's process; `auto` is
    `process` if the engines were exported for a CPU and ONNX Runtime is installed.
    region: `auto` lets clicks decode only where their mask can change, if the decoder runs in this
    model's process and its export passed the gate of regions; `full` never does.
    feature_device: `cuda:0` and so on keeps the encoder's outputs in that GPU's memory and makes
    masks there with PyTorch; "" keeps them in shared memory.
    """

    cache_bytes: int = 2 * 2**30
    cache_ttl_s: float = math.inf
    cache_salt: str = ""
    longest: int | None = None
    max_objects: int = 32
    decode_objects: int = 8
    max_image_bytes: int = 64 * 2**20
    max_image_pixels: int = 2**26
    max_reply_bytes: int = 256 * 2**20
    encode_workers: int = 2
    click_workers: int = 4
    queue: int = 64
    queue_bytes: int = 2**28
    torch_device: str = ""
    torch_precision: str = "fp32"
    torch_compile: str = "off"
    checkpoint: str = ""
    feature_device: str = ""
    decoder: str = "auto"
    region: str = "auto"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not isinstance(value, str) and not value > 0:
                raise InvalidInput(f"got {field.name} = {value}; expected more than 0")
        if self.torch_device and self.feature_device:
            raise InvalidInput("got torch_device and feature_device; expected one of them")
        if self.decoder not in DECODERS:
            raise InvalidInput(f"got decoder = {self.decoder!r}; expected {', '.join(DECODERS)}")
        if self.region not in REGIONS:
            raise InvalidInput(f"got region = {self.region!r}; expected {', '.join(REGIONS)}")
        if self.cache_salt not in CACHE_SALTS:
            raise InvalidInput(f"got cache_salt = {self.cache_salt!r}; expected token or nothing")
        for name in filter(None, (self.torch_device, self.feature_device)):
            if not is_device(name):
                raise InvalidInput(f"got the device {name!r}; expected cpu, cuda or cuda:NUMBER")

    @property
    def limits(self) -> ImageLimits:
        return ImageLimits(max_pixels=self.max_image_pixels, max_bytes=self.max_image_bytes)

    @classmethod
    def read(cls, parameters: Mapping[str, str], environment: Mapping[str, str]) -> ServingOptions:
        """The options from a config's parameters and the environment.

        Raises `InvalidInput` if a parameter is unknown or a value does not parse.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(parameters.keys() - fields.keys())
        if unknown:
            raise InvalidInput(
                f"got the parameter {unknown[0]!r} in config.pbtxt; expected one of {[*fields]}"
            )
        if parameters.get("cache_salt"):
            raise InvalidInput(  # alone it would do nothing: Triton must pass the token on
                "got cache_salt in config.pbtxt; set OIS_CACHE_SALT where the server is started, "
                "or use `ois serve --cache-salt`"
            )
        if parameters.get("longest"):
            raise InvalidInput(  # the models of a repository must not differ
                "got longest in config.pbtxt; set OIS_LONGEST where the server is started, or use "
                "`ois serve --longest`"
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


def read_options(arguments: Mapping[str, str]) -> ServingOptions:
    """The options of a model, from the `arguments` of its `initialize` and the environment.

    Raises `InvalidInput` if a parameter is unknown or a value does not parse.
    """
    config = json.loads(arguments["model_config"]).get("parameters", {})
    parameters = {name: value["string_value"] for name, value in config.items()}
    return ServingOptions.read(parameters, os.environ)


def load_manifest(arguments: Mapping[str, str], *, model: str = "") -> Manifest:
    """The manifest in a model's version folder; `arguments` are those of `initialize`.

    model: read the manifest of this other model of the repository; "" reads the model's own.
    Raises `EngineError` if there is no readable manifest.
    """
    folder = Path(arguments["model_repository"])
    if model:
        folder = folder.parent / model
    path = folder / arguments["model_version"] / MANIFEST_FILE
    try:
        manifest = Manifest.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"the repository has no readable manifest for {arguments['model_name']} ({error}); "
            "export it again"
        ) from error
    longest = ServingOptions.read({}, os.environ).longest
    return manifest if longest is None else manifest.at(longest)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The input shapes that one engine accepts.

    inputs: the engine's inputs, from the manifest.
    longest: longest side of the network's image in pixels; patch: side of a ViT patch in pixels;
    coverage_scale: cells of the coverage along each side of a patch.
    """

    inputs: tuple[TensorSpec, ...]
    longest: int
    patch: int
    options: ServingOptions
    coverage_scale: int = 1

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Raises `InvalidInput` if an input has a shape that no valid image can produce."""
        for spec in self.inputs:
            shape = arrays[spec.name].shape
            free = [axis for axis, side in enumerate(spec.shape) if isinstance(side, str)]
            if spec.name in PROMPT_NAMES:
                check_objects(shape[0], self.options.max_objects)
                free.remove(0)
            # A single free side may be the number of patches; image sides come in pairs.
            patches = (self.longest // self.patch) ** 2
            limit = max(self.longest, patches) if len(free) == 1 else self.longest
            for axis in free:
                if not 1 <= shape[axis] <= limit:
                    raise InvalidInput(
                        f"got {spec.name} of shape {shape}; expected sides of 1 to {limit}"
                    )
        self._check_grid({spec.name: arrays[spec.name].shape for spec in self.inputs})

    def _check_grid(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises `InvalidInput` unless the inputs are of one patch grid.

        The encoder would otherwise compute a grid as large as the position tables say for an image
        of one patch: gigabytes for a request of a few kilobytes.
        """
        if "image" in shapes:
            height, width = shapes["image"][:2]
        elif "depth" in shapes:
            height, width = shapes["depth"][1:]
        else:
            return
        rows, columns = height // self.patch, width // self.patch
        expected = {
            "image": (rows * self.patch, columns * self.patch, 3),
            "depth": (1, rows * self.patch, columns * self.patch),
            "pos_rows": (rows,),
            "pos_cols": (columns,),
        }
        for name, wanted in expected.items():
            if name in shapes and shapes[name][: len(wanted)] != wanted:
                raise InvalidInput(
                    f"got {name} of shape {shapes[name]} with an image of {width}x{height} pixels; "
                    f"expected {wanted}, for patches of {self.patch} pixels"
                )
        scale = self.coverage_scale
        cells = (rows * scale, columns * scale)
        coverage = shapes.get("coverage", (0, *cells))
        if coverage[1:] != cells:
            raise InvalidInput(
                f"got coverage of shape {coverage} for {rows}x{columns} patches; expected "
                f"{cells[0]}x{cells[1]} cells, {scale} along each side of a patch"
            )


def decodes_in_process(manifest: Manifest, options: ServingOptions, decoder: Path) -> bool:
    """Whether `ois_segment` decodes with an engine of its own. decoder: the ONNX file of
    `ois_decoder`, which may be missing."""
    if options.torch_device or options.feature_device:
        return False
    return options.decoder == "process" or (
        options.decoder == "auto"
        and manifest.target == "cpu"
        and decoder.is_file()
        and find_spec("onnxruntime") is not None
    )


def opens_at_first_request(arguments: Mapping[str, str]) -> bool:
    """Whether the engine model whose `initialize` has these `arguments` should not load its engine
    yet: the decoder's weights are in `ois_segment`, and perhaps nobody asks for `ois_oneshot`.

    Raises `EngineError` if the repository has no readable manifest.
    """
    engine = Path(arguments["model_repository"]) / arguments["model_version"] / "model.onnx"
    return arguments["model_name"] == "ois_decoder" and decodes_in_process(
        load_manifest(arguments, model=MODEL), ServingOptions.read({}, os.environ), engine
    )


def engine_limits(arguments: Mapping[str, str]) -> EngineLimits:
    """The limits of the engine model whose `initialize` has these `arguments`.

    The manifest is that of `ois_segment` and the options come from the environment alone, because
    an engine's config has the format of NVIDIA's backends, without parameters of ours. Raises
    `EngineError` if the repository has no readable manifest.
    """
    manifest = load_manifest(arguments, model=MODEL)
    engine = manifest.encoder if arguments["model_name"] == "ois_encoder" else manifest.decoder
    options = ServingOptions.read({}, os.environ)
    return EngineLimits(
        engine.inputs, manifest.longest, manifest.patch, options, manifest.coverage_scale
    )
