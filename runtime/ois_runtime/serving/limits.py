"""Limits of the models behind `ois_segment`, which a client can reach without it.

Every request must be bounded where it is worked on: ten thousand objects on one patch are a few
kilobytes on their way in and gigabytes inside. TensorRT's engines refuse by themselves what is
outside their profiles; graphs take anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.wire import MODEL, check_objects
from ois_runtime.engines.base import CLICK_INPUTS
from ois_runtime.engines.manifest import MANIFEST_FILE, Manifest, TensorSpec
from ois_runtime.serving.configuration import ServingOptions


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine takes: `inputs` of its manifest, for images of at most a square.

    longest: side of that square in pixels; patch: of a ViT patch.
    """

    inputs: tuple[TensorSpec, ...]
    longest: int
    patch: int
    options: ServingOptions

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Raises `InvalidInput` for an input that no image of ours has."""
        for spec in self.inputs:
            shape = arrays[spec.name].shape
            free = [axis for axis, side in enumerate(spec.shape) if isinstance(side, str)]
            if spec.name in CLICK_INPUTS:
                check_objects(shape[0], self.options.max_objects)
                free.remove(0)
            # One free side alone may count patches; sides of an image come in pairs.
            patches = (self.longest // self.patch) ** 2
            limit = max(self.longest, patches) if len(free) == 1 else self.longest
            for axis in free:
                if not 1 <= shape[axis] <= limit:
                    raise InvalidInput(
                        f"got {spec.name} of shape {shape}; expected sides of 1 to {limit}"
                    )


def load_manifest(arguments: Mapping[str, str], *, beside: str = "") -> Manifest:
    """The manifest in a model's version folder; `arguments` are those of `initialize`.

    beside: the model whose folder it is; "" is the model's own. Raises `EngineError` when there
    is none.
    """
    folder = Path(arguments["model_repository"])
    if beside:
        folder = folder.parent / beside
    path = folder / arguments["model_version"] / MANIFEST_FILE
    try:
        return Manifest.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"the repository has no readable manifest for {arguments['model_name']} ({error}); "
            "export it again"
        ) from error


def engine_limits(arguments: Mapping[str, str]) -> EngineLimits:
    """Of the engine model whose `initialize` has these arguments.

    Its manifest is the session model's, its options are the environment's: an engine's config is
    NVIDIA's and holds none of ours. Raises `EngineError` in a repository without the manifest.
    """
    manifest = load_manifest(arguments, beside=MODEL)
    engine = manifest.encoder if arguments["model_name"] == "ois_encoder" else manifest.decoder
    options = ServingOptions.read({}, os.environ)
    return EngineLimits(engine.inputs, manifest.longest, manifest.patch, options)
