"""The `local:` transport: a session's engines in this process, no server.

The same feature store, checks and stages as on a server, so a session cannot tell them apart.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from ois_client.errors import EngineError, InvalidInput
from ois_client.images import Picture
from ois_client.transport import ClickReply, ClickRequest, EncodeReply, ModelInfo
from ois_runtime.engines import EngineBackend, EngineOptions, EnginePair, load_engines
from ois_runtime.manifest import EXPORT_COMMAND
from ois_runtime.postprocess import postprocess
from ois_runtime.segmenter import Segmenter, timed
from ois_runtime.store import StoreStats

ENGINES_VARIABLE = "OIS_ENGINES"
DEFAULT_ENGINES = Path("engines/ois-tiny-cpu")


def default_engine_folder() -> Path:
    """`$OIS_ENGINES` if set, else `./engines/ois-tiny-cpu`."""
    return Path(os.environ.get(ENGINES_VARIABLE) or DEFAULT_ENGINES)


def open_transport(
    address: str = "",
    *,
    backend: str = "onnxruntime",
    threads: int | None = None,
    precision: str = "f32",
    compiled_cache: str | Path | None = None,
    cache_bytes: int = 2 * 2**30,
    ttl_s: float = math.inf,
    **unknown: object,
) -> LocalTransport:
    """Open the engines of the folder `address` (empty: `default_engine_folder()`).

    threads, precision, compiled_cache: see `EngineOptions`. cache_bytes, ttl_s: the feature
    store's memory, and the idle seconds after which an image is forgotten.
    Raises `EngineError` when there are no usable engines, `InvalidInput` for a wrong option.
    """
    if unknown:
        raise InvalidInput(
            f"got the unknown option {', '.join(sorted(unknown))}; local: takes backend, threads, "
            "precision, compiled_cache, cache_bytes, ttl_s"
        )
    folder = Path(address).expanduser() if address else default_engine_folder()
    if not folder.is_dir():
        origin = "" if address else f" (from {ENGINES_VARIABLE} or the default)"
        raise EngineError(f"no engine folder at {folder}{origin}. Make one with: {EXPORT_COMMAND}")
    options = EngineOptions(
        threads=threads,
        precision=precision,
        compiled_cache=None if compiled_cache is None else Path(compiled_cache),
    )
    engines = load_engines(folder, EngineBackend.parse(backend), options)
    return LocalTransport(engines, cache_bytes=cache_bytes, ttl_s=ttl_s)


class LocalTransport:
    """Runs an `EnginePair` in this process. Thread-safe."""

    def __init__(
        self, engines: EnginePair, *, cache_bytes: int = 2 * 2**30, ttl_s: float = math.inf
    ) -> None:
        """Raises `EngineError` for engines exported for another preprocessing."""
        self._segmenter = Segmenter(engines, cache_bytes=cache_bytes, ttl_s=ttl_s)

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

    def click(self, request: ClickRequest) -> ClickReply:
        """Refine N objects of one image.

        Raises `UnknownImage` when the store does not (or no longer) have the image,
        `InvalidInput` and its kinds when an array of the request is wrong.
        """
        state = self._segmenter.find(request.digest)
        refined = self._segmenter.refine(state, request)
        timings_ms = dict(refined.timings_ms)
        with timed(timings_ms, "postprocess"):
            masks = postprocess(refined.logits, state.geometry)
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
