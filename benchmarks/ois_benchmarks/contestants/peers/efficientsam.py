"""EfficientSAM, run through its own model, because its repository has no predictor class.

It takes no previous mask and uses only the first six clicks of an object
(`decoder_max_num_input_points` in efficient_sam.py). Its rows carry a warning about this.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ois_benchmarks.contestants.base import Image, Mask, Place
from ois_benchmarks.contestants.code import Source, open_code
from ois_benchmarks.contestants.torch_peer import (
    TorchContestant,
    arrays_of,
    identity_of,
    load_weights,
    prepare_torch,
    read_entry,
)
from ois_benchmarks.latency.result import Identity
from ois_client.contract.clicks import Click

SOURCE = Source(repository="yformer/EfficientSAM", commit="d525f62", module="efficient_sam")


@dataclass(frozen=True, slots=True)
class EfficientSamVariant:
    """label: for tables. width, heads: of the ViT, as in `build_efficient_sam_vit{t,s}`."""

    label: str
    width: int
    heads: int


VARIANTS = {
    "efficientsam-ti": EfficientSamVariant("EfficientSAM-Ti", 192, 3),
    "efficientsam-s": EfficientSamVariant("EfficientSAM-S", 384, 6),
}


def open_efficientsam(place: Place, variant: EfficientSamVariant) -> EfficientSamContestant:
    """Open EfficientSAM.

    Raises `NotHere` without its clone, `CheckpointError` for weights of another network.
    """
    device = prepare_torch(place)
    code = open_code(SOURCE, place.checkout)
    build = importlib.import_module("efficient_sam.efficient_sam").build_efficient_sam
    network = build(encoder_patch_embed_dim=variant.width, encoder_num_heads=variant.heads)
    if place.weights is not None:
        load_weights(network, read_entry(place.weights, "model"), place.weights)
    side = network.image_encoder.img_size
    identity = identity_of(
        place,
        code,
        label=variant.label,
        family="efficientsam",
        input_size=(side, side),
        warnings=(
            f"uses an object's first {network.decoder_max_num_input_points} clicks and no "
            "previous mask",
        ),
    )
    return EfficientSamContestant(network.eval().to(device), identity, device)


class EfficientSamContestant(TorchContestant):
    def __init__(self, network: Any, identity: Identity, device: torch.device) -> None:
        super().__init__(network, identity)
        self._device = device
        self._features: Any = None
        self._size = (0, 0)

    def _encode(self, image: Image) -> None:
        pixels = torch.tensor(image, device=self._device).permute(2, 0, 1)[None].float() / 255
        self._features = self.network.get_image_embeddings(pixels)
        self._size = image.shape[0], image.shape[1]

    def click(self, clicks: Sequence[Click]) -> Mask:
        """The mask with the highest predicted IoU, as in the repository's example."""
        points, labels = arrays_of(clicks)
        return self._predict(torch.tensor(points)[None, None], torch.tensor(labels)[None, None])[0]

    def click_each(self, points: Sequence[Click]) -> Mask:
        xy, labels = arrays_of(points)
        return self._predict(torch.tensor(xy)[None, :, None], torch.tensor(labels)[None, :, None])

    def _predict(self, points: torch.Tensor, labels: torch.Tensor) -> Mask:
        """Masks (N, H, W) for points (1, N, P, 2) and labels (1, N, P)."""
        height, width = self._size
        masks, scores = self.network.predict_masks(
            self._features,
            points.to(self._device),
            labels.to(self._device),
            multimask_output=True,
            input_h=height,
            input_w=width,
            output_h=height,
            output_w=width,
        )
        best = scores[0].argmax(1)
        found: Mask = (masks[0, torch.arange(len(best)), best] >= 0).cpu().numpy()
        return found
