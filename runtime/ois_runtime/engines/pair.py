"""The interfaces of engines: an encoder and a decoder that belong together, and their arrays.

`EnginePair` is what the rest of the runtime needs. Backends that run one file at a time implement
only the smaller `Graph`, and `GraphPair` makes a pair of two. Engines whose device also turns
logits into masks are `MaskEngines`, and engines whose device also resizes are `ResizingEngines`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import PROMPT_NAMES, SLOTS, Prompts
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.slots import few_slots

ENCODER_INPUTS = ("image", "pos_rows", "pos_cols")
#: "new_coverage", because a graph's input and output cannot both be called "coverage".
DECODER_OUTPUTS = ("logits", "new_coverage")

Arrays = Mapping[str, NDArray[np.generic]]
#: A prompt of NumPy arrays.
HostPrompts = Prompts[NDArray[Any]]


class EnginePair(Protocol):
    """An encoder and a decoder that belong together. Thread-safe."""

    #: May be replaced by `Manifest.at`, before the first image.
    manifest: Manifest

    @property
    def description(self) -> str:
        """Library, version and precision, for example `"onnxruntime 1.32.0 fp32"`."""
        ...

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> ImageState:
        """Compute the features of an image, (h, w, 3) uint8 RGB at the geometry's network size."""
        ...

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Segment the N objects of `prompts`.

        Returns logits (N, h, w), > 0 = object, and the coverage (N, gh, gw) of the new masks.
        Raises `InvalidInput` if a prompt array has the wrong shape or type (`check_prompts`).
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DecodedMasks:
    """The result of `MaskEngines.decode_masks`.

    packed: (N, ceil(H * W / 8)) uint8, one mask of the original image per row, packed as by
    `ois_client.contract.masks.pack_mask`. coverage: (N, gh, gw) uint8.
    logits: (N, h, w) float32, or None if not asked for.
    """

    packed: NDArray[np.uint8]
    coverage: NDArray[np.uint8]
    logits: NDArray[np.float32] | None


@runtime_checkable
class MaskEngines(Protocol):
    """An `EnginePair` that also makes the masks, so only one bit per pixel leaves its device."""

    def decode_masks(
        self, state: ImageState, prompts: HostPrompts, *, want_logits: bool
    ) -> DecodedMasks:
        """Like `EnginePair.decode`, with masks instead of logits.

        The masks are bit for bit those that `pixels.postprocess` makes of the logits.
        """
        ...


@runtime_checkable
class ResizingEngines(Protocol):
    """An `EnginePair` that also resizes images, because its device is faster at it."""

    def encode_pixels(self, pixels: NDArray[np.uint8], geometry: Geometry) -> ImageState:
        """Like `EnginePair.encode`, of pixels (H, W, 3) uint8 RGB at their original size.

        They are resized bit for bit as by `pixels.preprocess`.
        """
        ...


class Names(Protocol):
    """The names of a graph's inputs and outputs."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...


class Graph(Names, Protocol):
    """One loaded engine file. `run` is thread-safe and does not keep its arguments."""

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]: ...


@runtime_checkable
class Limited(Protocol):
    """A decoder that was built for a limited number of objects per run."""

    @property
    def most_objects(self) -> int: ...


def check_halves(manifest: Manifest, encoder: Names, decoder: Names) -> None:
    """Raise `EngineError` unless the two graphs can be the two halves of one network."""
    for role, graph, offered, wanted in (
        ("encoder", encoder, {*ENCODER_INPUTS}, {"depth", "depth_min", "depth_max"}),
        ("decoder", decoder, {*PROMPT_NAMES, *encoder.outputs}, {*DECODER_OUTPUTS}),
    ):
        unknown = sorted(set(graph.inputs) - offered)
        missing = sorted(wanted - set(graph.outputs))
        if unknown or missing:
            raise EngineError(
                f"{manifest.name}: the {role} "
                + (f"needs inputs that do not exist: {', '.join(unknown)}" if unknown else "")
                + ("; it " if unknown and missing else "")
                + (f"lacks the outputs {', '.join(missing)}" if missing else "")
                + ". The two engines are not from one export"
            )


class GraphPair:
    """An `EnginePair` made of two graphs."""

    def __init__(
        self, manifest: Manifest, description: str, encoder: Graph, decoder: Graph
    ) -> None:
        """Raises `EngineError` if the two files do not belong together."""
        self.manifest = manifest
        self.description = description
        self._encoder = encoder
        self._decoder = few_slots(decoder, manifest.decoder)
        check_halves(manifest, encoder, decoder)

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> ImageState:
        return run_encoder(self._encoder, self.manifest, image, geometry)

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        return run_decoder(self._decoder, self.manifest, state, prompts)


def run_encoder(
    encoder: Graph, manifest: Manifest, image: NDArray[np.uint8], geometry: Geometry
) -> ImageState:
    """`EnginePair.encode`, computed by one graph."""
    check_array("image", image, (geometry.network_height, geometry.network_width, 3), np.uint8)
    rows, columns = geometry.position_matrices(manifest.position_table)
    feeds: Arrays = {"image": image, "pos_rows": rows, "pos_cols": columns}
    arrays = encoder.run({name: feeds[name] for name in encoder.inputs})
    return ImageState(arrays, geometry)


def run_decoder(
    decoder: Graph, manifest: Manifest, state: ImageState, prompts: HostPrompts
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """`EnginePair.decode`, computed by one graph; in parts if it is `Limited`."""
    geometry = state.geometry
    check_prompts(prompts, geometry)
    total = len(prompts.labels)
    most = decoder.most_objects if isinstance(decoder, Limited) else total
    if total > most:

        def part(start: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
            few = prompts.map(lambda array: array[start : start + most])
            return run_decoder(decoder, manifest, state, few)

        parts = [part(start) for start in range(0, total, most)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    grid = geometry.coverage_shape
    size = (geometry.network_height, geometry.network_width)
    count = len(prompts.labels)
    feeds = {**state.arrays, **prompts.named()}
    outputs = decoder.run({name: feeds[name] for name in decoder.inputs})
    logits, new_coverage = (outputs[name] for name in DECODER_OUTPUTS)
    if logits.shape != (count, *size) or new_coverage.shape != (count, *grid):
        raise EngineError(
            f"{manifest.name}: the decoder returned logits {logits.shape} and coverage "
            f"{new_coverage.shape}; expected {(count, *size)} and {(count, *grid)}"
        )
    return (
        logits.astype(np.float32, copy=False),
        new_coverage.astype(np.uint8, copy=False),
    )


def check_prompts(prompts: HostPrompts, geometry: Geometry) -> None:
    """Raise `InvalidInput` unless every array has the shape and dtype that `Prompts` documents.

    Every `EnginePair.decode` starts with this check, so its callers do not check shapes.
    """
    count = len(prompts.labels)
    check_array("points", prompts.points, (count, SLOTS, 2), np.float32)
    check_array("labels", prompts.labels, (count, SLOTS), np.int32)
    check_array("coverage", prompts.coverage, (count, *geometry.coverage_shape), np.uint8)
    check_array("has_previous", prompts.has_previous, (count,), np.bool_)


def check_array(
    name: str, array: NDArray[np.generic], shape: tuple[int, ...], kind: type[np.generic]
) -> None:
    """Raise `InvalidInput` unless `array` has this shape and dtype."""
    if array.shape != shape or array.dtype != kind:
        raise InvalidInput(
            f"got {name} of shape {array.shape} and type {array.dtype}; expected {shape} "
            f"{np.dtype(kind)}"
        )
