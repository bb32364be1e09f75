"""SimpleClick (ViT-B at 448, 672 and 1024) through its own predictor.

Every click runs the whole network; there are no image features to keep. `flip` is the test-time
augmentation of its evaluation, which runs every click twice. Zoom-in crops to the network's size,
as in `scripts/evaluate_model.py:170-176`.
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
    repository="uncbiag/SimpleClick",
    commit="f33112e",
    module="isegm",
    light=("torchvision", "timm", "mmcv", "tensorboard", "cv2", "scipy"),
)
_NETWORK = "isegm.model.is_plainvit_model:PlainVitModel"
_MODEL_FILE = "plainvit_base448_cocolvis_itermask.py"


@dataclass(frozen=True, slots=True)
class SimpleClickVariant:
    """side: of the network's square input, in pixels. flip: with test-time augmentation.

    At every size it is the released ViT-B for 448 pixels. SimpleClick's own function interpolates
    its positional embedding, as in its evaluation.
    """

    side: int
    flip: bool

    @property
    def label(self) -> str:
        return f"SimpleClick ViT-B {self.side}{', flip' if self.flip else ''}"


VARIANTS = {
    f"simpleclick-{side}{'-flip' if flip else ''}": SimpleClickVariant(side, flip)
    for side in (448, 672, 1024)
    for flip in (False, True)
}


def open_simpleclick(place: Place, variant: SimpleClickVariant) -> PredictorContestant:
    """Open SimpleClick.

    Raises `NotHere` without its clone, `CheckpointError` for weights of another network.
    """
    device = prepare_torch(place)
    code = open_code(SOURCE, place.checkout)
    network = _build(Path(place.checkout or "."))
    if place.weights is not None:
        load_weights(network, state_dict(place.weights), place.weights)
    embedding = importlib.import_module("isegm.model.modeling.pos_embed")
    network = network.eval().to(device)
    embedding.interpolate_pos_embed_inference(network.backbone, (variant.side,) * 2, device)
    predictors = importlib.import_module("isegm.inference.predictors")
    predictor = predictors.get_predictor(
        network,
        "NoBRS",
        device,
        prob_thresh=THRESHOLD,
        with_flip=variant.flip,
        zoom_in_params={"skip_clicks": -1, "target_size": (variant.side,) * 2},
    )
    identity = identity_of(
        place,
        code,
        label=variant.label,
        family="simpleclick",
        input_size=(variant.side, variant.side),
    )
    return PredictorContestant(predictor, identity)


def _build(checkout: Path) -> Any:
    """The network of its model file, without loading the pretrained backbone for training."""
    module = model_file(checkout / "models/iter_mask" / _MODEL_FILE, _NETWORK)
    backbone = importlib.import_module("isegm.model.modeling.models_vit").VisionTransformer
    backbone.init_weights_from_pretrained = lambda *_args: None
    settings = SimpleNamespace(
        upsample="x1",
        random_split=False,
        device="cpu",
        IMAGENET_PRETRAINED_MODELS=SimpleNamespace(MAE_BASE=""),
    )
    return module.init_model(settings)[0]
