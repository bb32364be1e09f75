"""ONNX Runtime on an NVIDIA GPU: an image's features stay there, and so do the logits of a click.

    encode   image ─► GPU ─► outputs bound to GPU memory ─► `OrtState`
    click    `OrtState` + prompts ─► logits in GPU memory ─► masks, one bit per pixel ─► CPU

Masks are packed on the GPU by PyTorch, if it is installed: logits and masks are passed to it by
DLPack, without a copy. Otherwise, and before ONNX Runtime 1.26, the logits are copied and the masks
are made on the CPU. With PyTorch, clicks are also replayed as CUDA graphs (`cuda_graphs`).

The same code runs on ONNX Runtime's CPU provider, where tests compare it with `onnx_runtime`.
**It was not run on a GPU yet.**
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError, ServerOverloaded
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.engines.cuda_graphs import OrtGraphs
from ois_runtime.engines.image_state import ImageState, check_depth
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.pair import (
    DECODER_OUTPUTS,
    DecodedMasks,
    HostPrompts,
    check_array,
    check_halves,
    check_prompts,
)
from ois_runtime.engines.pixels import postprocess

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"
_ERRORS_ONLY = 3
_INSTALL = (
    "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'ois-deploy[gpu]'; `ois doctor` "
    "shows what is installed"
)
_LOG = logging.getLogger(__name__)
_serials = itertools.count()
_NO_MEMORY = re.compile(r"out of memory|failed to allocate|ALLOC(ATION)?_FAILED", re.IGNORECASE)


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Place:
    """A device, as ONNX Runtime names it. kind: `"cpu"` or `"cuda"`; index: the GPU's number."""

    kind: str
    index: int = 0

    @classmethod
    def of(cls, device: str) -> Place:
        """From `"cpu"`, `"cuda"`, `"cuda:1"` and so on."""
        kind, _, index = device.partition(":")
        return cls(kind, int(index or 0))

    def providers(self, *, graphs: bool = False) -> list[str | tuple[str, dict[str, str]]]:
        """The providers for a session, the first for all operations that it supports.

        graphs: runs can be captured as CUDA graphs. The other options, all of them strings:
            cudnn_conv_algo_search   guessed, because a search takes seconds for each new shape, and
                                     photographs have many
            use_tf32                 off: ten bits are too few for coordinates
            arena_extend_strategy    otherwise the memory pool doubles when it grows
        """
        if self.kind == "cpu":
            return [CPU_PROVIDER]
        options = {
            "device_id": str(self.index),
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
            "arena_extend_strategy": "kSameAsRequested",
        }
        if graphs:
            options["enable_cuda_graph"] = "1"
        return [(CUDA_PROVIDER, options), CPU_PROVIDER]


def open_pair(folder: Path, options: EngineOptions) -> OrtPair:
    """Load the engines in `folder` for `options.device`.

    The precision is that of the graphs. Raises `EngineError` if the folder or a file is missing or
    damaged, or if this ONNX Runtime cannot use the GPU.
    """
    place = Place.of(options.device)
    manifest = Manifest.load(folder)
    if place.kind == "cuda":
        _load_libraries()
    encoder = OrtSession(folder / manifest.encoder.file, place, options.threads)
    file = folder / manifest.decoder.file
    most = options.cuda_graphs if _torch_shares(place) else 0  # which copies the features
    try:
        decoder = OrtSession(file, place, options.threads, graphs=most > 0)
    except EngineError as error:
        if most == 0:
            raise
        _LOG.warning("clicks run without CUDA graphs: %s", error)
        decoder, most = OrtSession(file, place, options.threads), 0
    description = f"onnxruntime {onnxruntime.__version__} {options.device} {manifest.precision}"
    return OrtPair(manifest, description, encoder, decoder, place, most_graphs=most)


def _load_libraries() -> None:
    """Load CUDA and cuDNN where pip installed them, for PyTorch or for ONNX Runtime itself.

    Raises `EngineError` if this ONNX Runtime is built without CUDA.
    """
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this ONNX Runtime ({onnxruntime.__version__}) is built without CUDA; expected "
            f"onnxruntime-gpu. {_INSTALL}"
        )
    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        onnxruntime.preload_dlls()


class OrtSession:
    """One ONNX file. Its results stay on the device. Thread-safe."""

    def __init__(
        self, path: Path, place: Place, threads: int | None = None, *, graphs: bool = False
    ) -> None:
        """graphs: `run_bound` can capture CUDA graphs.

        Raises `EngineError` if this ONNX Runtime cannot run the file on this device, or so.
        """
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            settings.intra_op_num_threads = threads
        self._path, self._place = path, place
        providers = place.providers(graphs=graphs)
        self._plain = onnxruntime.RunOptions()
        if graphs:
            self._plain.add_run_config_entry("gpu_graph_id", "-1")  # no capture
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=providers)
        except Exception as error:  # the bindings have no common base class for their errors
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}"
            ) from error
        wanted = CPU_PROVIDER if place.kind == "cpu" else CUDA_PROVIDER
        got = self._session.get_providers()
        if got[0] != wanted:  # without an error, everything would run on the CPU
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} runs {path.name} with {got[0]}; expected "
                f"{wanted}. The libraries of CUDA or cuDNN are missing or of another version: "
                f"pip install 'onnxruntime-gpu[cuda,cudnn]'. {_INSTALL}"
            )
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())
        #: Name of an output -> its type, such as `"tensor(float)"`.
        self.types = {value.name: str(value.type) for value in self._session.get_outputs()}

    def binding(self, given: Mapping[str, Any], results: Mapping[str, Any]) -> Any:
        """A binding of all inputs and outputs to `OrtValue`s that stay where they are."""
        binding = self._session.io_binding()
        for name in self.inputs:
            binding.bind_ortvalue_input(name, given[name])
        for name in self.outputs:
            binding.bind_ortvalue_output(name, results[name])
        return binding

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run the graph. feeds: NumPy arrays, which are copied to the device, or `OrtValue`s.

        Returns an `OrtValue` on the device for each output, complete. Raises `ServerOverloaded` if
        the device's memory is full and `EngineError` for other failures.
        """
        binding = self._session.io_binding()
        kind, index = self._place.kind, self._place.index
        for name in self.inputs:
            value = feeds[name]
            if isinstance(value, np.ndarray):
                array = np.ascontiguousarray(value)
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array, kind, index)
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, kind, index)
        self.run_bound(binding, self._plain)
        return dict(zip(self.outputs, binding.get_outputs(), strict=True))

    def run_bound(self, binding: Any, options: Any) -> None:
        """Run with bound inputs and outputs, and wait. options: ONNX Runtime's `RunOptions`.

        Raises the errors of `run`.
        """
        try:
            self._session.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
        except Exception as error:
            said = str(error)
            if _NO_MEMORY.search(said):
                raise ServerOverloaded(
                    f"the GPU is out of memory ({said}); click on fewer objects at once, or keep "
                    "fewer images (lower cache_bytes)"
                ) from error
            raise EngineError(f"{self._path.name} failed: {said}") from error


class OrtArrays(Mapping[str, NDArray[np.generic]]):
    """`OrtValue`s as read-only NumPy arrays, each copied from the device at every access.

    Clicks need none of them. Depth and order maps need the depth.
    """

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        array: NDArray[np.generic] = self._tensors[name].numpy()
        array = array.view()
        array.flags.writeable = False
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True, slots=True, eq=False)
class OrtState(ImageState):
    """An `ImageState` on a device. tensors: `OrtValue`s; `arrays` copies them when accessed.

    serial: a number that no other state of the process has, so that buffers know whose they hold.
    """

    tensors: Mapping[str, Any]
    serial: int

    @classmethod
    def of(cls, tensors: Mapping[str, Any], geometry: Geometry) -> OrtState:
        """Raises `EngineError` if the depth is missing, has a wrong shape or is not finite."""
        return cls(OrtArrays(tensors), geometry, tensors, next(_serials))

    def __post_init__(self) -> None:
        check_depth(_Shapes(self.tensors), self.geometry)

    @property
    def nbytes(self) -> int:
        """Size of all tensors on the device in bytes."""
        return sum(int(value.tensor_size_in_bytes()) for value in self.tensors.values())


class _Shapes(Mapping[str, Any]):
    """What `check_depth` needs of `OrtValue`s: the shape of `depth`, and the two single numbers."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Any:
        value = self._tensors[name]
        return _Shape(tuple(value.shape())) if len(value.shape()) > 1 else value.numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True, slots=True)
class _Shape:
    shape: tuple[int, ...]


class OrtPair:
    """An `EnginePair` and `MaskEngines` of two sessions on one device."""

    def __init__(
        self,
        manifest: Manifest,
        description: str,
        encoder: OrtSession,
        decoder: OrtSession,
        place: Place,
        *,
        most_graphs: int = 0,
    ) -> None:
        """most_graphs: how many CUDA graphs of clicks are captured.

        Raises `EngineError` if the two files do not belong together.
        """
        check_halves(manifest, encoder, decoder)
        self.manifest = manifest
        self.description = description
        self._encoder, self._decoder, self._place = encoder, decoder, place
        #: Whether masks are packed on the device.
        self.packs = _torch_shares(place)
        self.graphs = OrtGraphs(decoder, place, most_graphs) if most_graphs else None

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> OrtState:
        check_array("image", image, (geometry.network_height, geometry.network_width, 3), np.uint8)
        rows, columns = geometry.position_matrices(self.manifest.position_table)
        feeds = {"image": image, "pos_rows": rows, "pos_cols": columns}
        return OrtState.of(self._encoder.run(feeds), geometry)

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        count = len(prompts.labels)
        return self._run(
            state, prompts, lambda logits, new: (_logits(logits, count), new.numpy()[:count])
        )

    def decode_masks(
        self, state: ImageState, prompts: HostPrompts, *, want_logits: bool
    ) -> DecodedMasks:
        count = len(prompts.labels)

        def use(logits: Any, new_coverage: Any) -> DecodedMasks:
            host = _logits(logits, count) if want_logits or not self.packs else None
            if self.packs:
                packed = _pack(logits, count, state.geometry)
            else:
                scores = _logits(logits, count) if host is None else host
                masks = postprocess(scores, state.geometry)
                packed = np.packbits(masks.reshape(len(masks), -1), axis=1)
            coverage = new_coverage.numpy()[:count]
            return DecodedMasks(packed, coverage, host if want_logits else None)

        return self._run(state, prompts, use)

    def _run(
        self, state: ImageState, prompts: HostPrompts, use: Callable[[Any, Any], Result]
    ) -> Result:
        """Call `use` with logits and coverage as `OrtValue`s of at least N rows.

        A state of another backend is copied each time.
        """
        geometry = state.geometry
        check_prompts(prompts, geometry)
        if self.graphs is not None and isinstance(state, OrtState):
            replayed = self.graphs.run(state, prompts, lambda results: (use(*results),))
            if replayed is not None:
                return replayed[0]
        features = state.tensors if isinstance(state, OrtState) else state.arrays
        outputs = self._decoder.run({**features, **prompts.named()})
        count = len(prompts.labels)
        expected = (
            (count, geometry.network_height, geometry.network_width),
            (count, *geometry.coverage_shape),
        )
        logits, new_coverage = (outputs[name] for name in DECODER_OUTPUTS)
        got = tuple(tuple(value.shape()) for value in (logits, new_coverage))
        if got != expected:
            raise EngineError(
                f"{self.manifest.name}: the decoder returned logits {got[0]} and coverage "
                f"{got[1]}; expected {expected[0]} and {expected[1]}"
            )
        return use(logits, new_coverage)


def _logits(value: Any, count: int) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = value.numpy()[:count].astype(np.float32, copy=False)
    return logits


def _torch_shares(place: Place) -> bool:
    """Whether PyTorch can use ONNX Runtime's memory on this device."""
    # ONNX Runtime has DLPack from 1.26 on.
    if find_spec("torch") is None or not hasattr(onnxruntime.OrtValue, "__dlpack__"):
        return False
    import torch

    return place.kind == "cpu" or (
        torch.cuda.is_available() and place.index < torch.cuda.device_count()
    )


def _pack(logits: Any, count: int, geometry: Geometry) -> NDArray[np.uint8]:
    """Packed masks, made on the device that holds the logits."""
    import torch

    from ois_runtime.torch.masks import pack_masks

    with torch.inference_mode():
        packed = pack_masks(torch.from_dlpack(logits)[:count].float(), geometry)
        return np.asarray(packed.cpu().numpy())
