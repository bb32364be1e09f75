"""The `local:` transport: a session's engines in this process, no server.

The same feature store, checks and stages as on a server, so a session cannot tell them apart.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ois_client.clicks import Click, fill_slots, unpack_clicks
from ois_client.errors import EngineError, InvalidInput, UnknownImage
from ois_client.geometry import PREPROCESS_VERSION, Geometry
from ois_client.images import Picture
from ois_client.transport import ClickReply, ClickRequest, EncodeReply, ModelInfo
from ois_runtime.engines import EngineBackend, EngineOptions, EnginePair, load_engines
from ois_runtime.manifest import EXPORT_COMMAND
from ois_runtime.postprocess import postprocess
from ois_runtime.preprocess import preprocess
from ois_runtime.state import ImageState, order_depth
from ois_runtime.store import FeatureStore, StoreStats

ENGINES_VARIABLE = "OIS_ENGINES"
DEFAULT_ENGINES = Path("engines/ois-tiny-cpu")

#: (digest, model_sha256, preprocess_version): features never meet another model's clicks.
StoreKey = tuple[str, str, str]


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
        if engines.manifest.preprocess_version != PREPROCESS_VERSION:
            raise EngineError(
                f"{engines.manifest.name} was exported for the preprocessing "
                f"{engines.manifest.preprocess_version!r}; this version does "
                f"{PREPROCESS_VERSION!r}. Export again: {EXPORT_COMMAND}"
            )
        self._engines: EnginePair | None = engines
        self._manifest = engines.manifest
        self._store: FeatureStore[StoreKey, ImageState] = FeatureStore(cache_bytes, ttl_s=ttl_s)

    def info(self) -> ModelInfo:
        manifest = self._manifest
        return ModelInfo(
            network=manifest.name,
            longest=manifest.longest,
            patch=manifest.patch,
            preprocess_version=manifest.preprocess_version,
            model_sha256=manifest.model_sha256,
            trained=manifest.trained,
            engine=self._open_engines().description,
        )

    def stats(self) -> StoreStats:
        """Counters of the feature store."""
        return self._store.stats()

    def encode(self, picture: Picture) -> EncodeReply:
        """Encode the picture, unless the store still has it.

        Raises `InvalidImage` when it cannot be decoded, `EngineError` when its features are
        larger than the whole store: no click could ever find them.
        """
        engines = self._open_engines()
        timings_ms: dict[str, float] = {}

        def make() -> ImageState:
            with _timed(timings_ms, "preprocess"):
                image, geometry = preprocess(
                    picture, longest=self._manifest.longest, patch=self._manifest.patch
                )
            with _timed(timings_ms, "encode"):
                return engines.encode(image, geometry)

        found = self._store.get_or_encode(self._key(picture.digest), make)
        if not found.kept:
            raise EngineError(
                f"the features of this image take {found.value.nbytes} bytes, more than the "
                f"feature store's {self._store.stats().budget_bytes}; raise cache_bytes"
            )
        return EncodeReply(digest=picture.digest, cached=found.hit, timings_ms=timings_ms)

    def click(self, request: ClickRequest) -> ClickReply:
        """Refine N objects of one image.

        Raises `UnknownImage` when the store does not (or no longer) have the image,
        `InvalidInput` and its kinds when an array of the request is wrong.
        """
        engines = self._open_engines()
        state = self._store.get(self._key(request.digest))
        if state is None:
            raise UnknownImage(
                f"no features of the image {request.digest[:12]}…: never sent, or forgotten to "
                "make room. Encode it (again), then repeat the click"
            )
        objects, coverage, has_previous = _checked(request, state.geometry)
        timings_ms: dict[str, float] = {}
        points, labels = fill_slots(objects, state.geometry)
        with _timed(timings_ms, "decode"):
            logits, new_coverage = engines.decode(state, points, labels, coverage, has_previous)
        with _timed(timings_ms, "postprocess"):
            masks = postprocess(logits, state.geometry)
        return ClickReply(
            masks=masks,
            coverage=new_coverage,
            timings_ms=timings_ms,
            depth=order_depth(state) if request.want_depth else None,
            logits=logits if request.want_logits else None,
        )

    def close(self) -> None:
        """Free the engines and the features; closing twice is fine."""
        self._engines = None
        self._store.clear()

    def _open_engines(self) -> EnginePair:
        if self._engines is None:
            raise EngineError("this transport is closed; open a new one")
        return self._engines

    def _key(self, digest: str) -> StoreKey:
        return digest, self._manifest.model_sha256, PREPROCESS_VERSION


def _checked(
    request: ClickRequest, geometry: Geometry
) -> tuple[list[list[Click]], NDArray[np.uint8], NDArray[np.bool_]]:
    """The request's clicks, coverage and has_previous; nothing from outside is trusted."""
    objects = unpack_clicks(request.points, request.labels, geometry.width, geometry.height)
    coverage = np.asarray(request.coverage)
    has_previous = np.asarray(request.has_previous)
    shape = (len(objects), geometry.grid_height, geometry.grid_width)
    if coverage.shape != shape or coverage.dtype != np.uint8:
        raise InvalidInput(
            f"got coverage of shape {coverage.shape} and type {coverage.dtype}; expected "
            f"(N, gh, gw) = {shape}, uint8"
        )
    if has_previous.shape != shape[:1] or has_previous.dtype != np.bool_:
        raise InvalidInput(
            f"got has_previous of shape {has_previous.shape} and type {has_previous.dtype}; "
            f"expected (N,) = {shape[:1]}, bool"
        )
    return objects, np.ascontiguousarray(coverage), np.ascontiguousarray(has_previous)


@contextmanager
def _timed(timings_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings_ms[stage] = (time.perf_counter() - start) * 1e3
