"""SegNext (SAx1, SAx2) through its own predictor, with the network that its model files build."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ois_benchmarks.contestants.base import Image, Mask, Place
from ois_benchmarks.contestants.code import Source, open_code
from ois_benchmarks.contestants.peers.ritm_family import (
    THRESHOLD,
    clicker_of,
    model_file,
    state_dict,
)
from ois_benchmarks.contestants.torch_peer import (
    TorchContestant,
    identity_of,
    load_weights,
    prepare_torch,
)
from ois_benchmarks.latency.result import Identity
from ois_client.contract.clicks import Click

SOURCE = Source(
    repository="uncbiag/SegNext",
    commit="4c45ce8",
    folder="segnext",
    module="isegm",
    light=("torchvision", "mmcv", "cv2"),
)


@dataclass(frozen=True, slots=True)
class SegNextVariant:
    """label: for tables. model_file: in the clone; its `build_model` sets the dimensions."""

    label: str
    model_file: str


VARIANTS = {
    "segnext-sax1": SegNextVariant("SegNext SAx1", "plainvit_base1024_cocolvis_sax1.py"),
    "segnext-sax2": SegNextVariant("SegNext SAx2", "plainvit_base1024_hqseg44k_sax2.py"),
}


def open_segnext(place: Place, variant: SegNextVariant) -> SegNextContestant:
    """Open SegNext.

    Raises `NotHere` without its clone, `CheckpointError` for weights of another network.
    """
    device = prepare_torch(place)
    code = open_code(SOURCE, place.checkout)
    path = Path(place.checkout or ".") / SOURCE.folder / "models/default" / variant.model_file
    network = model_file(path, "isegm.model.is_plainvit_model:PlainVitModel").build_model(
        img_size=1024
    )
    if place.weights is not None:
        load_weights(network, state_dict(place.weights), place.weights)
    side = network.target_length
    identity = identity_of(
        place, code, label=variant.label, family="segnext", input_size=(side, side)
    )
    return SegNextContestant(network.eval().to(device), identity)


class SegNextContestant(TorchContestant):
    def __init__(self, network: Any, identity: Identity) -> None:
        super().__init__(network, identity)
        if isinstance(network, nn.Module):  # in bf16 the predictor could not make a NumPy array
            network.register_forward_hook(_in_fp32)
        self._predictor = importlib.import_module("isegm.inference.predictor").BasePredictor(
            network
        )

    def _encode(self, image: Image) -> None:
        self._predictor.set_image(image)
        self._no_mask: torch.Tensor = self._predictor.prev_mask

    def click(self, clicks: Sequence[Click]) -> Mask:
        if len(clicks) == 1:
            self._predictor.prev_mask = self._no_mask
        mask: Mask = self._predictor.predict(clicker_of(clicks)) > THRESHOLD
        return mask


def _in_fp32(_network: nn.Module, _inputs: Any, found: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.float() for name, tensor in found.items()}
