"""FocalClick (SegFormer-B0 and -B3) through its own predictor, with the network of its model files.

A click runs the network on a crop around the object at 256x256 (its "S2"), then a refiner on a
smaller crop around what changed. The settings are those of its evaluation
(`scripts/evaluate_model.py:163`), with the input size that the models were trained with.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
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
    repository="XavierCHEN34/ClickSEG",
    commit="0c801cf",
    module="isegm",
    needs={"cv2": "opencv-python-headless<5", "scipy": "scipy"},
    light=(
        *("torchvision", "timm", "mmcv", "tensorboard"),
        *("skimage", "IPython", "attr", "numpy"),
    ),
)
#: Side of the network's square input: `crop_size` of the model files.
_SIDE = 256
#: Longest side of the object's crop on DAVIS, and how much larger than the object it is.
_ZOOM = {"target_size": 600, "expansion_ratio": 1.4}


@dataclass(frozen=True, slots=True)
class FocalClickVariant:
    """label: for tables. model_file: in the clone."""

    label: str
    model_file: str


VARIANTS = {
    "focalclick-b0": FocalClickVariant("FocalClick SegFormer-B0-S2", "segformerB0_S2_cclvs.py"),
    "focalclick-b3": FocalClickVariant("FocalClick SegFormer-B3-S2", "segformerB3_S2_cclvs.py"),
}


def open_focalclick(place: Place, variant: FocalClickVariant) -> PredictorContestant:
    """Open FocalClick.

    Raises `NotHere` without its clone, `CheckpointError` for weights of another network.
    """
    device = prepare_torch(place)
    code = open_code(SOURCE, place.checkout)
    network = _build(Path(place.checkout or ".") / "models/focalclick" / variant.model_file)
    if place.weights is not None:
        load_weights(network, state_dict(place.weights), place.weights)
    predictors = importlib.import_module("isegm.inference.predictors")
    predictor = predictors.get_predictor(
        network.eval().to(device),
        "FocalClick",
        device,
        prob_thresh=THRESHOLD,
        infer_size=_SIDE,
        focus_crop_r=1.4,
        zoom_in_params=_ZOOM,
    )
    identity = identity_of(
        place, code, label=variant.label, family="focalclick", input_size=(_SIDE, _SIDE)
    )
    return PredictorContestant(predictor, identity)


def _build(path: Path) -> Any:
    """The network of a model file, without loading the pretrained backbone for training."""
    for name, members in _TRAINING.items():
        _only(name, members)
    module = model_file(path, "isegm.model.is_segformer_model:SegFormerModel")
    backbone = importlib.import_module("isegm.model.modeling.segformer.segformer_model").SegFormer
    backbone.load_pretrained_weights = lambda *_args: None
    weights = SimpleNamespace(SEGFORMER_B0="", SEGFORMER_B3="")
    return module.init_model(SimpleNamespace(device="cpu", IMAGENET_PRETRAINED_MODELS=weights))[0]


#: What the model files import for training only, from modules that need more packages.
_TRAINING = {
    "isegm.data.datasets.lvis": ("LvisDataset",),
    "isegm.data.compose": ("ComposeDataset", "ProportionalComposeDataset"),
    "isegm.data.aligned_augmentation": ("AlignedAugmentator",),
    "isegm.engine.focalclick_trainer": ("ISTrainer",),
}


def _only(name: str, members: tuple[str, ...]) -> None:
    """Put an empty module with these names in the place of `name`."""
    module = ModuleType(name)
    vars(module).update(dict.fromkeys(members))
    for parent in ("isegm.data", "isegm.data.datasets", "isegm.engine"):
        if parent not in sys.modules:
            package = ModuleType(parent)
            package.__path__ = []
            sys.modules[parent] = package
    sys.modules[name] = module
