"""The `local:` transport: a session's engines in this process, no server.

The same feature store, checks and stages as on a server, so a session cannot tell them apart.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ois_client.contract.errors import EngineError
from ois_client.contract.images import Picture
from ois_client.contract.transport import ClickReply, ClickRequest, EncodeReply, ModelInfo
from ois_runtime.engines.base import EngineBackend, EnginePair, load_engines
from ois_runtime.engines.features import FeatureFolder, check_backend
from ois_runtime.engines.local_options import LocalOptions
from ois_runtime.engines.manifest import EXPORT_COMMAND
from ois_runtime.engines.segmenter import Segmenter, timed
from ois_runtime.engines.store import StoreStats
from ois_runtime.torch.checkpoint import default_checkpoint

ENGINES_VARIABLE = "OIS_ENGINES"
DEFAULT_ENGINES = Path("engines/ois-tiny-cpu")


def default_engine_folder() -> Path:
    """`$OIS_ENGINES` if set, else `./engines/ois-tiny-cpu`."""
    return Path(os.environ.get(ENGINES_VARIABLE) or DEFAULT_ENGINES)


def open_transport(address: str = "", **given: Any) -> LocalTransport:
    """Open the engines that `address` means, see `local_options`; `given` are `LocalOptions`.

    Raises `EngineError` when there are no usable engines or no such GPU, `InvalidInput` for a
    wrong option.
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
        """Raises `EngineError` for engines exported for another preprocessing."""
        self._segmenter = Segmenter(
            engines, cache_bytes=cache_bytes, ttl_s=ttl_s, features=features
        )

    def info(self) -> ModelInfo:
        return self._segmenter.info()

    def stats(self) -> StoreStats:
        """Counters of the feature store."""
        return self._segmenter.stats()

    def encode(self, picture: Picture) -> EncodeReply:
        """Encode the picture, unless the store still has it.

        Raises `InvalidImage` when it cannot be decoded, `EngineError` when its features are
        larger than the whole store: no click could ever find them.
        """
        encoded = self._segmenter.encode(picture)
        return EncodeReply(
            digest=picture.digest, cached=encoded.cached, timings_ms=encoded.timings_ms
        )

    def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        """Refine N objects of one image; with `picture`, encode it first if need be.

        Raises `UnknownImage` when the store does not (or no longer) have the image and it does
        not come along, `InvalidInput` and its kinds when an array of the request is wrong.
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
        return ClickReply(
            masks=masks,
            coverage=refined.coverage,
            timings_ms=timings_ms,
            depth=refined.depth,
            logits=refined.logits if request.want_logits else None,
            order=refined.order,
        )

    def close(self) -> None:
        """Free the engines and the features; closing twice is fine."""
        self._segmenter.close()
