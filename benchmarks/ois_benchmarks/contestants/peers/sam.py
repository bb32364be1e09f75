"""SAM, HQ-SAM and MobileSAM through their own `SamPredictor` and mask generators.

One mask per click (`multimask_output=False`), which is the cheaper of SAM's two modes. The
low-resolution logits of the previous click are the `mask_input`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ois_benchmarks.contestants.base import Image, Mask, Place
from ois_benchmarks.contestants.code import PeerCode, Source, open_code
from ois_benchmarks.contestants.torch_peer import (
    TorchContestant,
    arrays_of,
    identity_of,
    load_weights,
    prepare_torch,
    read_weights,
)
from ois_benchmarks.latency.result import Identity
from ois_client.contract.clicks import Click

SIDE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SamVariant:
    """One network of SAM's family.

    label: for tables. model: its key in `sam_model_registry`. hoisted: HQ-SAM with image-only
    features computed once per image, not once per click.
    """

    label: str
    family: str
    source: Source
    model: str
    hoisted: bool = False


SAM = Source(
    repository="facebookresearch/segment-anything",
    commit="dca509f",
    module="segment_anything",
    pypi=("segment-anything", "1.0", "segment_anything"),
    light=("torchvision",),
)
HQ_SAM = Source(
    repository="SysCV/sam-hq",
    commit="fb181f8",
    module="segment_anything",
    pypi=("segment-anything-hq", "0.3", "segment_anything_hq"),
    light=("torchvision", "timm"),
)
MOBILE_SAM = Source(
    repository="ChaoningZhang/MobileSAM",
    commit="34bbbfd",
    module="mobile_sam",
    light=("torchvision", "timm"),
)

VARIANTS = {
    "sam-vitb": SamVariant(label="SAM ViT-B", family="sam", source=SAM, model="vit_b"),
    "hqsam-vitb": SamVariant(label="HQ-SAM ViT-B", family="hqsam", source=HQ_SAM, model="vit_b"),
    "hqsam-vitb-hoisted": SamVariant(
        label="HQ-SAM ViT-B, image part hoisted",
        family="hqsam",
        source=HQ_SAM,
        model="vit_b",
        hoisted=True,
    ),
    "hqsam-light": SamVariant(
        label="HQ-SAM light (TinyViT)", family="hqsam", source=HQ_SAM, model="vit_tiny"
    ),
    "mobilesam": SamVariant(
        label="MobileSAM", family="mobilesam", source=MOBILE_SAM, model="vit_t"
    ),
}


def open_sam(place: Place, variant: SamVariant) -> SamContestant:
    """Open SAM, HQ-SAM or MobileSAM.

    Raises `NotHere` without its code, `CheckpointError` for weights of another network.
    """
    device = prepare_torch(place)
    code = open_code(variant.source, place.checkout)
    network = build(code, variant, place.weights).to(device)
    predictor = importlib.import_module(code.module).SamPredictor(network)
    identity = identity_of(
        place, code, label=variant.label, family=variant.family, input_size=(SIDE, SIDE)
    )
    if variant.hoisted:
        return HoistedHqSam(predictor, identity, code)
    return SamContestant(predictor, identity, code)


def build(code: PeerCode, variant: SamVariant, weights: Path | None) -> Any:
    network = importlib.import_module(code.module).sam_model_registry[variant.model]()
    if weights is not None:
        load_weights(network, read_weights(weights), weights)
    return network.eval()


class SamContestant(TorchContestant):
    """A `SamPredictor` as a contestant."""

    def __init__(self, predictor: Any, identity: Identity, code: PeerCode) -> None:
        super().__init__(predictor.model, identity)
        self.predictor = predictor
        self.module = code.module
        self._logits: Any = None

    def _encode(self, image: Image) -> None:
        self.predictor.set_image(image)

    def click(self, clicks: Sequence[Click]) -> Mask:
        points, labels = arrays_of(clicks)
        masks, _, self._logits = self.predictor.predict(
            points,
            labels,
            mask_input=None if len(clicks) == 1 else self._logits,
            multimask_output=False,
        )
        mask: Mask = masks[0] > 0  # SAM's are bool, SAM 2's float
        return mask

    def click_each(self, points: Sequence[Click]) -> Mask:
        predictor = self.predictor
        xy, labels = arrays_of(points)
        given = torch.as_tensor(
            predictor.transform.apply_coords(xy, predictor.original_size), dtype=torch.float32
        )
        masks, _, _ = predictor.predict_torch(
            given[:, None].to(predictor.device),
            torch.as_tensor(labels)[:, None].to(predictor.device),
            multimask_output=False,
        )
        found: Mask = masks[:, 0].cpu().numpy()
        return found

    def automatic(self, image: Image, points_per_side: int) -> int:
        generator = importlib.import_module(self.module).SamAutomaticMaskGenerator(
            self.network, points_per_side=points_per_side, points_per_batch=1
        )
        return len(generator.generate(image))


class HoistedHqSam(SamContestant):
    """HQ-SAM with its image-only features computed in `set_image`.

    `MaskDecoderHQ.forward` computes `embedding_encoder(image) + compress_vit_feat(vit)` at every
    click (mask_decoder_hq.py:124-125). Here the two modules return stored results. Everything else
    is HQ-SAM's code, and the masks are the same.
    """

    def __init__(self, predictor: Any, identity: Identity, code: PeerCode) -> None:
        super().__init__(predictor, identity, code)
        decoder = predictor.model.mask_decoder
        self._parts = decoder.embedding_encoder, decoder.compress_vit_feat
        self._stored = StoredResult(), StoredResult()
        decoder.embedding_encoder, decoder.compress_vit_feat = self._stored
        # Keep them registered, so that their parameters are counted.
        decoder.hoisted = nn.ModuleList(self._parts)

    def _encode(self, image: Image) -> None:
        super()._encode(image)
        self._stored[0].value = self._parts[0](self.predictor.features)
        self._stored[1].value = self._parts[1](
            self.predictor.interm_features[0].permute(0, 3, 1, 2)
        )


class StoredResult(nn.Module):
    """Returns `value`, whatever the input."""

    value: Tensor

    def forward(self, _unused: Tensor) -> Tensor:
        return self.value


def padded_points(clicks: Sequence[Click]) -> tuple[Any, Any]:
    """Points (1, P + 1, 2) and labels (1, P + 1).

    SAM's ONNX decoder needs a padding point if there is no box.
    """
    points, labels = arrays_of(clicks)
    points = np.concatenate([points, np.zeros((1, 2), np.float32)])[None]
    return points, np.append(labels, -1)[None].astype(np.float32)
