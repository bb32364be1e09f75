"""RITM (HRNet-18 and HRNet-32) through its own predictor, with the network of its model files.

Every click runs the whole network. The first click of an object sees the whole picture; later ones
see a crop around the mask, as in its evaluation (`scripts/evaluate_model.py:143`). `flip` is the
test-time augmentation of that evaluation, which runs every click twice.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ois_benchmarks.contestants.base import Place
from ois_benchmarks.contestants.code import Source, open_code
from ois_benchmarks.contestants.peers.ritm_family import (
    THRESHOLD,
    PredictorContestant,
    model_file,
    state_dict,
)
from ois_benchmarks.contestants.torch_peer import identity_of, load_weights, prepare_torch

SOURCE = Source(
    repository="SamsungLabs/ritm_interactive_segmentation",
    commit="b9b4460",
    module="isegm",
    needs={"cv2": "opencv-python-headless<5", "scipy": "scipy"},
    light=("torchvision", "tensorboard", "numpy"),
)
#: Longest side of the crop on DAVIS (`scripts/evaluate_model.py:145`).
_CROP = 600


@dataclass(frozen=True, slots=True)
class RitmVariant:
    """width: of the HRNet. flip: with test-time augmentation."""

    width: int
    flip: bool

    @property
    def label(self) -> str:
        return f"RITM HRNet-{self.width}{', flip' if self.flip else ''}"

    @property
    def model_file(self) -> str:
        return f"hrnet{self.width}_cocolvis_itermask_3p.py"


VARIANTS = {
    f"ritm-hrnet{width}{'-flip' if flip else ''}": RitmVariant(width, flip)
    for width in (18, 32)
    for flip in (False, True)
}


def open_ritm(place: Place, variant: RitmVariant) -> PredictorContestant:
    """Open RITM.

    Raises `NotHere` without its clone, `CheckpointError` for weights of another network.
    """
    device = prepare_torch(place)
    code = open_code(SOURCE, place.checkout)
    path = Path(place.checkout or ".") / "models/iter_mask" / variant.model_file
    network = build_hrnet(path)
    if place.weights is not None:
        load_weights(network, state_dict(place.weights), place.weights)
    predictors = importlib.import_module("isegm.inference.predictors")
    predictor = predictors.get_predictor(
        network.eval().to(device),
        "NoBRS",
        device,
        prob_thresh=THRESHOLD,
        with_flip=variant.flip,
        zoom_in_params={"target_size": _CROP},
    )
    identity = identity_of(
        place, code, label=variant.label, family="ritm", input_size=(_CROP, _CROP)
    )
    return PredictorContestant(predictor, identity)


def build_hrnet(path: Path) -> Any:
    """The network of a model file, without loading the pretrained backbone for training."""
    module = model_file(path, "isegm.model.is_hrnet_model:HRNetModel", "isegm.model.initializer")
    backbone = importlib.import_module("isegm.model.modeling.hrnet_ocr").HighResolutionNet
    backbone.load_pretrained_weights = lambda *_args: None
    weights = SimpleNamespace(HRNETV2_W18="", HRNETV2_W32="")
    return module.init_model(SimpleNamespace(device="cpu", IMAGENET_PRETRAINED_MODELS=weights))[0]
