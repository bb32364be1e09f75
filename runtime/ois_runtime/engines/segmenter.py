"""Answers clicks on images with engines and a feature store, in process and on a server.

    Picture ─► encode ─► ImageState, kept in the feature store under the picture's digest
    ClickRequest + ImageState ─► refine ─► logits, coverage

The engines are an `EnginePair`: in this process, or other models of a server.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click, Prompts, place_clicks, unpack_clicks
from ois_client.contract.errors import EngineError, InvalidInput, UnknownImage
from ois_client.contract.geometry import PREPROCESS_VERSION, Geometry
from ois_client.contract.images import Picture
from ois_client.contract.transport import Answer, ClickRequest, ModelInfo, Region
from ois_runtime.engines.features import FeatureFolder
from ois_runtime.engines.image_state import ImageState, order_depth, order_maps
from ois_runtime.engines.manifest import EXPORT_COMMAND, Manifest
from ois_runtime.engines.pair import EnginePair, HostPrompts, MaskEngines, ResizingEngines
from ois_runtime.engines.pixels import masks_of_grid, pixels_of, postprocess, preprocess
from ois_runtime.engines.region.pair import CoarseEngines, RegionEngines
from ois_runtime.engines.store import FeatureStore, StoreStats

#: Patches on the short side of the smallest image in the profiles "landscape" and "portrait".
_SMALLEST_SIDE = 3

#: (digest, salt, model_sha256, preprocess_version): features are used with their model only, and
#: by those who share a salt.
StoreKey = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """An image's features. cached: they were not computed now, but found."""

    state: ImageState
    cached: bool
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """The decoder's result for the N objects of a request.

    logits: (N, h, w) float32 at network size, > 0 = object; None if the engines made masks and
    logits were not requested.
    packed: masks made by the engines, see `DecodedMasks`; None if they made logits only.
    coarse: (N, rows, columns) float32 on a coarse grid, > 0 = object: the only result of a request
    for a coarse answer, whose coverage is empty; None otherwise.
    coverage: (N, gh, gw) uint8 of the new masks.
    depth: (h, w) float32, near 0, far 1. order: (K, h, w) float32, see `ClickReply`. Both are None
    unless requested.
    """

    geometry: Geometry
    logits: NDArray[np.float32] | None
    packed: NDArray[np.uint8] | None
    coverage: NDArray[np.uint8]
    depth: NDArray[np.float32] | None
    order: NDArray[np.float32] | None
    timings_ms: Mapping[str, float]
    coarse: NDArray[np.float32] | None = None

    def mask(self, row: int) -> NDArray[np.uint8]:
        """The mask of one object, (H, W) uint8 of the original image, 1 = object."""
        height, width = self.geometry.height, self.geometry.width
        if self.packed is not None:
            bits = np.unpackbits(self.packed[row], count=height * width)
            return bits.reshape(height, width)
        if self.coarse is not None:
            (mask,) = masks_of_grid(self.coarse[row : row + 1], self.geometry)
            return mask
        if self.logits is None:
            raise ValueError("got neither masks nor logits from the engines")
        (mask,) = postprocess(self.logits[row : row + 1], self.geometry)
        return mask


class Segmenter:
    """Engines and a feature store. Thread-safe."""

    def __init__(
        self,
        engines: EnginePair,
        *,
        cache_bytes: int = 2 * 2**30,
        ttl_s: float = math.inf,
        features: FeatureFolder | None = None,
    ) -> None:
        """features: images with features there are loaded instead of encoded.

        Raises `EngineError` if the engines were exported for another preprocessing.
        """
        self._features = features
        self._manifest = engines.manifest
        if self._manifest.preprocess_version != PREPROCESS_VERSION:
            raise EngineError(
                f"{self._manifest.name} was exported for the preprocessing "
                f"{self._manifest.preprocess_version!r}; this version uses "
                f"{PREPROCESS_VERSION!r}. Export again: {EXPORT_COMMAND}"
            )
        self._open_engines: EnginePair | None = engines
        self._store: FeatureStore[StoreKey, ImageState] = FeatureStore(cache_bytes, ttl_s=ttl_s)

    def info(self) -> ModelInfo:
        engines = self._engines
        return self._manifest.model_info(
            engines.description, coarse_answers=isinstance(engines, CoarseEngines)
        )

    def probe_size(self) -> tuple[int, int]:
        """The (width, height) of an image for health checks, see the function `probe_size`."""
        return probe_size(self._manifest)

    def stats(self) -> StoreStats:
        """Counters of the feature store."""
        return self._store.stats()

    def encode(self, picture: Picture, salt: str = "") -> Encoded:
        """Encode the picture, unless the store has its features.

        salt: callers with different salts never share features, and none can tell whether another
        one opened an image.

        Raises `InvalidImage` if the picture cannot be decoded, and `EngineError` if its features
        are larger than the whole store, so that no click could find them.
        """
        engines = self._engines
        timings_ms: dict[str, float] = {}

        def make() -> ImageState:
            if self._features is not None and picture.digest in self._features:
                with timed(timings_ms, "load"):
                    return self._features.load(picture.digest)
            with timed(timings_ms, "preprocess"):
                if isinstance(engines, ResizingEngines):
                    image = pixels_of(picture)
                    geometry = self._manifest.fit(image.shape[1], image.shape[0])
                else:
                    image, geometry = preprocess(picture, self._manifest.fit)
            with timed(timings_ms, "encode"):
                if isinstance(engines, ResizingEngines):
                    return engines.encode_pixels(image, geometry)
                return engines.encode(image, geometry)

        found = self._store.get_or_encode(self._key(picture.digest, salt), make)
        if not found.kept:
            raise EngineError(
                f"the features of this image take {found.value.nbytes} bytes, more than the "
                f"feature store's {self._store.stats().budget_bytes}; raise cache_bytes"
            )
        return Encoded(found.value, found.hit or "load" in timings_ms, timings_ms)

    def find(self, digest: str, salt: str = "") -> ImageState:
        """The features of an image that was encoded with this salt.

        Raises `UnknownImage` if the store lacks them.
        """
        state = self._store.get(self._key(digest, salt))
        if state is None:
            raise UnknownImage(
                f"no features of the image {digest[:12]}…: it was never sent, or its features "
                "were dropped to make room. Encode it, then repeat the click"
            )
        return state

    def refine(self, state: ImageState, request: ClickRequest) -> Refined:
        """Run the decoder once for the N objects of a request on the image of `state`.

        Raises `InvalidInput` or a subclass if an array of the request is wrong, or if it is for a
        coarse answer that these engines do not have. The clicks are checked here, and the shapes
        of `coverage` and `has_previous` by the engines.
        """
        geometry = state.geometry
        points, labels = place_clicks(request.points, request.labels, geometry)
        prompts: HostPrompts = Prompts(
            points,
            labels,
            np.ascontiguousarray(request.coverage),
            np.ascontiguousarray(request.has_previous),
        )
        timings_ms: dict[str, float] = {}
        engines = self._engines
        if request.answer is Answer.COARSE:
            checked = _check_coarse(engines, request)
            with timed(timings_ms, "decode"):
                coarse = checked.coarse(state, prompts)
            nothing = np.zeros((len(coarse), 0, 0), dtype=np.uint8)
            return Refined(geometry, None, None, nothing, None, None, timings_ms, coarse)
        logits = packed = None
        with timed(timings_ms, "decode"):
            if isinstance(engines, MaskEngines):
                decoded = engines.decode_masks(state, prompts, want_logits=request.want_logits)
                logits, packed, new_coverage = decoded.logits, decoded.packed, decoded.coverage
            elif isinstance(engines, RegionEngines) and _may_be_region(request):
                found = engines.decode_region(state, prompts)
                logits, new_coverage = found.logits, found.coverage
            else:
                logits, new_coverage = engines.decode(state, prompts)
        depth = order_depth(state) if request.want_depth or request.want_order else None
        order = None
        if request.want_order and depth is not None:
            objects = unpack_clicks(request.points, request.labels, geometry.width, geometry.height)
            order = np.concatenate([_order_maps_of(depth, clicks, geometry) for clicks in objects])
        return Refined(
            geometry,
            logits,
            packed,
            new_coverage,
            depth if request.want_depth else None,
            order,
            timings_ms,
        )

    def holds(self, digest: str, salt: str = "") -> bool:
        """Whether the store has the image's features. Does not count as a use."""
        return self._key(digest, salt) in self._store

    def close(self) -> None:
        """Drop the engines and all features. Can be called twice."""
        self._open_engines = None
        self._store.clear()

    @property
    def _engines(self) -> EnginePair:
        engines = self._open_engines
        if engines is None:
            raise EngineError("the engines are closed; open them again")
        return engines

    def _key(self, digest: str, salt: str) -> StoreKey:
        return digest, salt, self._manifest.model_sha256, PREPROCESS_VERSION


def _check_coarse(engines: EnginePair, request: ClickRequest) -> CoarseEngines:
    if not isinstance(engines, CoarseEngines):
        raise InvalidInput(
            "got a request for a coarse answer, which these engines do not have: they decode every "
            "click whole. Request the full answer"
        )
    if request.want_depth or request.want_logits or request.want_order:
        raise InvalidInput(
            "got a request for a coarse answer with depth, logits or order maps; it has masks "
            "only. Request them with the full answer"
        )
    return engines


def _may_be_region(request: ClickRequest) -> bool:
    """Whether the logits may be those of a region."""
    if request.region is None:
        return not request.want_logits
    return request.region is Region.AUTO


def _order_maps_of(
    depth: NDArray[np.float32], clicks: list[Click], geometry: Geometry
) -> NDArray[np.float32]:
    """(K, h, w): the map of the positive clicks, if there are any, and one per negative click."""
    maps = order_maps(depth, clicks, geometry)
    first = maps.negative[:0] if maps.positive is None else maps.positive[None]
    return np.concatenate((first, maps.negative))


def probe_size(manifest: Manifest) -> tuple[int, int]:
    """The (width, height) of the smallest image that the engines accept, for health checks.

    Graphs accept every shape. TensorRT engines accept only the shapes they were built for, which
    the manifest names (`ois_export.tensorrt.profiles` defines the names); a click on another shape
    would fail on a healthy server. The image has one pixel per patch, so it is only a few bytes.
    """
    longest = manifest.longest // manifest.patch
    names = manifest.options.get("profiles", {}).get("encoder", ())
    sizes = [_smallest(str(name), longest, manifest.patch) for name in names]
    return min(sizes, key=lambda size: size[0] * size[1], default=(longest, 1))


def _smallest(name: str, longest: int, patch: int) -> tuple[int, int]:
    """The smallest patch grid (columns, rows) of a profile."""
    short = min(_SMALLEST_SIDE, longest)
    ranges = {"landscape": (longest, short), "portrait": (short, longest)}
    width, _, height = name.partition("x")
    if width.isdecimal() and height.isdecimal():
        return int(width) // patch, int(height) // patch
    return ranges.get(name, (longest, longest))  # a square fits both


@contextmanager
def timed(timings_ms: dict[str, float], stage: str) -> Iterator[None]:
    """Record the wall time of the block under `stage`, unless the block raises."""
    start = time.perf_counter()
    yield
    timings_ms[stage] = (time.perf_counter() - start) * 1e3
