"""The backend torch: the rewritten network in two halves, on a GPU or a CPU.

It needs a checkpoint and no export, so it is the engine for a GPU without TensorRT and for networks
in training. This is the only module of the runtime that imports the network.
"""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ois_client.contract.clicks import EMPTY, SLOTS, Prompts
from ois_client.contract.errors import EngineError
from ois_client.contract.geometry import PREPROCESS_VERSION, Geometry
from ois_network.attention import set_attention_ops
from ois_network.checkpoints.checkpoint import Checkpoint, load_checkpoint
from ois_network.config import NetworkConfig
from ois_network.half import lower_precision
from ois_network.kernels.compiled import Sample, compile_halves, host_time_us, kept_answer
from ois_network.kernels.dot import use_dot_products
from ois_network.kernels.fused import FusedChoice, fused_here, preferred, with_preferred
from ois_network.kernels.here import measurements_here
from ois_network.kernels.operations import KernelAttention, measured_choice, measured_for
from ois_network.region import DecoderParts
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites
from ois_runtime.engines.backends import Compiling, EngineOptions, Precision
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import EngineFile, Manifest
from ois_runtime.engines.pair import (
    ENCODER_INPUTS,
    Arrays,
    DecodedMasks,
    HostPrompts,
    check_array,
    check_prompts,
)
from ois_runtime.engines.pixels import resize
from ois_runtime.torch.checkpoint import find_checkpoint
from ois_runtime.torch.cuda import Lane
from ois_runtime.torch.device import dtype_of, find_device
from ois_runtime.torch.graph_pool import CAPTURE_AT
from ois_runtime.torch.image_state import TorchState
from ois_runtime.torch.region import TorchRegionEngines, with_regions
from ois_runtime.torch.runner import (
    Answer,
    Decode,
    EagerRunner,
    Encode,
    Runner,
    Wanted,
    tensor_of,
)


def open_engines(path: Path, options: EngineOptions) -> TorchEngines | TorchRegionEngines:
    """As `open_whole`; with an engine folder, clicks in fp32 on the CPU decode regions as its
    engines do.
    """
    engines = open_whole(path, options)
    return with_regions(engines, partial(DecoderParts.of, engines.decoder), path, options)


def open_whole(path: Path, options: EngineOptions) -> TorchEngines:
    """Load the network of a checkpoint, or of the checkpoint that an engine folder was made from.

    Every click decodes the whole image. Raises `EngineError` if there is no checkpoint or no
    suitable GPU, and `CheckpointError` if the file is not an OIS checkpoint.
    """
    device = find_device(options.device, options.precision)
    file = find_checkpoint(path, options.checkpoint)
    if options.threads is not None:
        torch.set_num_threads(
            options.threads
        )  # for the whole process; PyTorch has no other setting
    return TorchEngines(file, load_checkpoint(file), device, options)


class TorchEngines:
    """An `EnginePair` and `MaskEngines` made of `ImageEncoder` and `ClickDecoder`.

    runner: runs the two halves, of which `decoder` is the second. rewrites: which rewrites of the
    network are used.
    """

    def __init__(
        self, file: Path, loaded: Checkpoint, device: torch.device, options: EngineOptions
    ) -> None:
        """The network of `loaded` is moved to the device and changed; do not use it afterwards."""
        network = loaded.network.requires_grad_(False)
        precision = options.precision
        self.device = device
        self.manifest = checkpoint_manifest(file, loaded, precision)
        self.description = f"torch {torch.__version__} {device} {precision}"
        dtype = dtype_of(precision)
        gpu = rows = None
        attention = FusedChoice()
        if device.type == "cuda":
            from ois_runtime.torch.cuda import CudaDevice

            gpu = CudaDevice(device)
            attention = fused_here(loaded.config, dtype, device, gpu.time_us)
            with preferred(attention.click):
                rows = measurements_here(loaded.config, dtype, device, gpu.time_us)
        # Our own kernels, and the cached keys and values they need, where they measured faster.
        set_attention_ops(network, KernelAttention(measured_choice(rows)))
        rewrites = Rewrites(cached_kv=measured_for(loaded.config, dtype, device, rows))
        encoder, decoder = ImageEncoder(network, rewrites), ClickDecoder(network, rewrites)
        self.rewrites = encoder.rewrites
        self.decoder = decoder
        if precision is not Precision.FP32:
            lower_precision(encoder, decoder, dtype)
        for half in (encoder, decoder):
            half.to(device)
            half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        use_dot_products(network.depth_head, network.mask_head)
        encode: Encode = encoder
        decode: Decode = decoder
        if options.compile is not Compiling.OFF:
            lane = nullcontext() if gpu is None else gpu.on(Lane.CLICKS)
            with torch.inference_mode(), lane:
                encode, decode = compile_halves(
                    encoder,
                    decoder,
                    self._sample(device),
                    host_time_us if gpu is None else gpu.time_us,
                    kept_answer(loaded.config, dtype, device),
                    attention,
                    measured=options.compile is Compiling.MEASURED,
                )
        encode = with_preferred(attention.encode, encode)
        decode = with_preferred(attention.click, decode)
        self.runner: Runner
        if gpu is None:
            self.runner = EagerRunner(encode, decode)
        else:
            from ois_runtime.torch.graphs import GraphRunner

            self.runner = GraphRunner(
                encode,
                decode,
                gpu,
                cuda_graphs=options.cuda_graphs,
                most_objects=partial(most_objects, loaded.config),
            )
            self.warm_up()

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> TorchState:
        size = (geometry.network_height, geometry.network_width, 3)
        check_array("image", image, size, np.uint8)
        return self._encode(image, geometry)

    def encode_pixels(self, pixels: NDArray[np.uint8], geometry: Geometry) -> TorchState:
        check_array("pixels", pixels, (geometry.height, geometry.width, 3), np.uint8)
        if self.device.type == "cpu":  # where Pillow is faster
            pixels = resize(pixels, geometry)
        return self._encode(pixels, geometry)

    def _encode(self, image: NDArray[np.uint8], geometry: Geometry) -> TorchState:
        rows, columns = geometry.position_matrices(self.manifest.position_table)
        given: Arrays = dict(zip(ENCODER_INPUTS, (image, rows, columns), strict=True))
        size = (geometry.network_height, geometry.network_width)
        return TorchState.of(self.runner.encode(given, size), geometry)

    def decode(
        self, state: ImageState, prompts: HostPrompts
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        answer = self._click(state, prompts, Wanted(logits=True))
        if answer.logits is None:
            raise TypeError("the runner returned no logits")
        return answer.logits, answer.coverage

    def decode_masks(
        self, state: ImageState, prompts: HostPrompts, *, want_logits: bool
    ) -> DecodedMasks:
        answer = self._click(state, prompts, Wanted(masks=True, logits=want_logits))
        if answer.packed is None:
            raise TypeError("the runner returned no masks")
        return DecodedMasks(answer.packed, answer.coverage, answer.logits)

    def warm_up(self) -> None:
        """Click on a blank square until its graphs are captured, so that one-time setup is done."""
        geometry, image, no_click = self._blank()
        for _ in range(CAPTURE_AT):
            state = self.encode(image, geometry)
            self.decode_masks(state, no_click, want_logits=False)

    def _blank(self) -> tuple[Geometry, NDArray[np.uint8], HostPrompts]:
        """A blank square of the largest size, and one object without clicks."""
        side = self.manifest.longest
        geometry = self.manifest.fit(side, side)
        no_click: HostPrompts = Prompts(
            points=np.zeros((1, SLOTS, 2), dtype=np.float32),
            labels=np.full((1, SLOTS), EMPTY, dtype=np.int32),
            coverage=np.zeros((1, *geometry.coverage_shape), dtype=np.uint8),
            has_previous=np.zeros(1, dtype=np.bool_),
        )
        return geometry, np.zeros((side, side, 3), dtype=np.uint8), no_click

    def _sample(self, device: torch.device) -> Sample:
        """`_blank` on the device, to compile for."""
        geometry, image, no_click = self._blank()
        given = (image, *geometry.position_matrices(self.manifest.position_table))
        prompts = no_click.map(tensor_of)
        return Sample(
            [tensor_of(array).to(device) for array in given],
            [tensor.to(device) for tensor in prompts],
        )

    def _click(self, state: ImageState, prompts: HostPrompts, wanted: Wanted) -> Answer:
        if not isinstance(state, TorchState):
            raise EngineError("got features from another backend; encode the image again")
        check_prompts(prompts, state.geometry)
        return self.runner.decode(state, prompts, wanted)


#: PyTorch's bilinear resize of channels-last tensors on a GPU has 32-bit indices.
_MOST_ELEMENTS = 2**31 - 1


def most_objects(config: NetworkConfig, grid: tuple[int, int]) -> int:
    """How many objects one run of the decoder can take on a GPU with a patch grid of (gh, gw).

    The largest tensors are the two that the mask head enlarges last: to 8 times the grid, and to
    the size at which its last convolutions run.
    """
    features = config.head_features
    largest = max(64 * features, features // 2 * (config.patch // config.output_stride) ** 2)
    return max(1, _MOST_ELEMENTS // (largest * grid[0] * grid[1]))


def checkpoint_manifest(
    file: Path, loaded: Checkpoint, precision: Precision = Precision.FP32
) -> Manifest:
    """A manifest for a checkpoint that runs without an export.

    The digest of the engines is made of the checkpoint's digest and the precision, so that features
    and replies of two precisions are not mixed.
    """
    config = loaded.config
    digest = loaded.sha256
    if precision is not Precision.FP32:
        digest = hashlib.sha256(f"{digest} {precision}".encode()).hexdigest()
    engine = EngineFile(file.name, digest, file.stat().st_size)
    return Manifest(
        coverage_scale=config.coverage_scale,
        name=config.name,
        target="torch",
        precision=precision.value,
        network=config.to_dict(),
        trained=loaded.trained,
        checkpoint_sha256=loaded.sha256,
        longest=config.longest,
        patch=config.patch,
        position_table=config.position_table,
        preprocess_version=PREPROCESS_VERSION,
        opset=0,
        created=str(loaded.metadata.get("created", "")),
        versions={"torch": torch.__version__},
        encoder=engine,
        decoder=engine,
    )
