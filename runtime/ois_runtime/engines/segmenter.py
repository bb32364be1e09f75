"""The one path from a picture and its clicks to logits, in process and on a server alike.

    Picture ─► encode ─► ImageState, kept in the feature store under its digest
    ClickRequest + ImageState ─► refine ─► logits, coverage

What runs the engines is an `EnginePair`: this process, or a server's other models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click, place_clicks, unpack_clicks
from ois_client.contract.errors import EngineError, UnknownImage
from ois_client.contract.geometry import PREPROCESS_VERSION, Geometry
from ois_client.contract.images import Picture
from ois_client.contract.prompts import Prompts
from ois_client.contract.transport import ClickRequest, ModelInfo
from ois_runtime.engines.features import FeatureFolder
from ois_runtime.engines.image_state import ImageState, order_depth, order_maps
from ois_runtime.engines.manifest import EXPORT_COMMAND, Manifest
from ois_runtime.engines.pair import EnginePair, HostPrompts, MaskEngines
from ois_runtime.engines.pixels import postprocess, preprocess
from ois_runtime.engines.store import FeatureStore, StoreStats

#: Patches on the short side of the smallest image of the profiles "landscape" and "portrait".
_SMALLEST_SIDE = 3

#: (digest, model_sha256, preprocess_version): features never meet another model's clicks.
StoreKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """An image's features. cached: they were there already and nothing was computed."""

    state: ImageState
    cached: bool
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """The decoder's answer for the N objects of a request.

    logits: (N, h, w) float32 at network size, > 0 = object; None where the engines' device made
    the masks and nobody wants logits.
    packed: the masks in that case, see `DecodedMasks`, else None.
    coverage: (N, gh, gw) uint8 of the new masks.
    depth: (h, w) float32, near 0, far 1; order: (K, h, w) float32, see `ClickReply`; both only
    when wanted.
    """

    geometry: Geometry
    logits: NDArray[np.float32] | None
    packed: NDArray[np.uint8] | None
    coverage: NDArray[np.uint8]
    depth: NDArray[np.float32] | None
    order: NDArray[np.float32] | None
    timings_ms: Mapping[str, float]

    def mask(self, row: int) -> NDArray[np.uint8]:
        """(H, W) uint8 of the original image, 1 = object."""
        height, width = self.geometry.height, self.geometry.width
        if self.packed is not None:
            bits = np.unpackbits(self.packed[row], count=height * width)
            return bits.reshape(height, width)
        if self.logits is None:
            raise ValueError("an answer without masks and logits")
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
        """features: images that are there are read instead of encoded.

        Raises `EngineError` for engines exported for another preprocessing.
        """
        self._features = features
        self._manifest = engines.manifest
        if self._manifest.preprocess_version != PREPROCESS_VERSION:
            raise EngineError(
                f"{self._manifest.name} was exported for the preprocessing "
                f"{self._manifest.preprocess_version!r}; this version does "
                f"{PREPROCESS_VERSION!r}. Export again: {EXPORT_COMMAND}"
            )
        self._open_engines: EnginePair | None = engines
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
            engine=self._engines.description,
        )

    def probe_size(self) -> tuple[int, int]:
        """(width, height) of a picture for health checks, see `probe_picture.py`."""
        return probe_size(self._manifest)

    def stats(self) -> StoreStats:
        """Counters of the feature store."""
        return self._store.stats()

    def encode(self, picture: Picture) -> Encoded:
        """Encode the picture, unless the store still has it.

        Raises `InvalidImage` when it cannot be decoded, `EngineError` when its features are
        larger than the whole store: no click could ever find them.
        """
        engines = self._engines
        timings_ms: dict[str, float] = {}

        def make() -> ImageState:
            if self._features is not None and picture.digest in self._features:
                with timed(timings_ms, "load"):
                    return self._features.load(picture.digest)
            with timed(timings_ms, "preprocess"):
                image, geometry = preprocess(
                    picture, longest=self._manifest.longest, patch=self._manifest.patch
                )
            with timed(timings_ms, "encode"):
                return engines.encode(image, geometry)

        found = self._store.get_or_encode(self._key(picture.digest), make)
        if not found.kept:
            raise EngineError(
                f"the features of this image take {found.value.nbytes} bytes, more than the "
                f"feature store's {self._store.stats().budget_bytes}; raise cache_bytes"
            )
        return Encoded(found.value, found.hit or "load" in timings_ms, timings_ms)

    def find(self, digest: str) -> ImageState:
        """The features of an image that was encoded before. Raises `UnknownImage`."""
        state = self._store.get(self._key(digest))
        if state is None:
            raise UnknownImage(
                f"no features of the image {digest[:12]}…: never sent, or forgotten to "
                "make room. Encode it (again), then repeat the click"
            )
        return state

    def refine(self, state: ImageState, request: ClickRequest) -> Refined:
        """Run the decoder once for the N objects of a request on the image of `state`.

        Raises `InvalidInput` and its kinds when an array of the request is wrong: the clicks are
        checked here, the shapes of `coverage` and `has_previous` by the engines.
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
        logits = packed = None
        with timed(timings_ms, "decode"):
            if isinstance(engines, MaskEngines):
                decoded = engines.decode_masks(state, prompts, want_logits=request.want_logits)
                logits, packed, new_coverage = decoded.logits, decoded.packed, decoded.coverage
            else:
                logits, new_coverage = engines.decode(state, prompts)
        depth = order_depth(state) if request.want_depth or request.want_order else None
        order = None
        if request.want_order and depth is not None:
            objects = unpack_clicks(request.points, request.labels, geometry.width, geometry.height)
            order = np.concatenate([_maps(depth, clicks, geometry) for clicks in objects])
        return Refined(
            geometry,
            logits,
            packed,
            new_coverage,
            depth if request.want_depth else None,
            order,
            timings_ms,
        )

    def holds(self, digest: str) -> bool:
        """Whether the image's features are here; not a use of them."""
        return self._key(digest) in self._store

    def close(self) -> None:
        """Let go of the engines and of every image; twice is fine."""
        self._open_engines = None
        self._store.clear()

    @property
    def _engines(self) -> EnginePair:
        engines = self._open_engines
        if engines is None:
            raise EngineError("the engines are closed; open them again")
        return engines

    def _key(self, digest: str) -> StoreKey:
        return digest, self._manifest.model_sha256, PREPROCESS_VERSION


def _maps(
    depth: NDArray[np.float32], clicks: list[Click], geometry: Geometry
) -> NDArray[np.float32]:
    """(K, h, w): the map of the positive clicks, if any, then one a negative click."""
    maps = order_maps(depth, clicks, geometry)
    first = maps.negative[:0] if maps.positive is None else maps.positive[None]
    return np.concatenate((first, maps.negative))


def probe_size(manifest: Manifest) -> tuple[int, int]:
    """(width, height) of the picture. A patch a pixel, so that it travels in a few bytes."""
    longest = manifest.longest // manifest.patch
    names = manifest.options.get("profiles", {}).get("encoder", ())
    sizes = [_smallest(str(name), longest, manifest.patch) for name in names]
    return min(sizes, key=lambda size: size[0] * size[1], default=(longest, 1))


def _smallest(name: str, longest: int, patch: int) -> tuple[int, int]:
    """(columns, rows) of a profile's smallest patch grid."""
    short = min(_SMALLEST_SIDE, longest)
    ranges = {"landscape": (longest, short), "portrait": (short, longest)}
    width, _, height = name.partition("x")
    if width.isdecimal() and height.isdecimal():
        return int(width) // patch, int(height) // patch
    return ranges.get(name, (longest, longest))  # a square is both lying and standing


@contextmanager
def timed(timings_ms: dict[str, float], stage: str) -> Iterator[None]:
    """Note the wall time of the block under `stage`, unless it raises."""
    start = time.perf_counter()
    yield
    timings_ms[stage] = (time.perf_counter() - start) * 1e3
