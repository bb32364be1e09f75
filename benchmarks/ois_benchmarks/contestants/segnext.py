"""SegNext (SAx1, SAx2) through its own predictor, with the network that its model files build."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from ois_benchmarks.contestants.base import Image, Mask, NotHere, Place
from ois_benchmarks.contestants.code import Source, open_code
from ois_benchmarks.contestants.torch_peer import (
    TorchContestant,
    identity_of,
    load_weights,
    prepare_torch,
    read_weights,
)
from ois_benchmarks.latency.result import Identity
from ois_client.contract.clicks import Click
from ois_client.contract.errors import CheckpointError

SOURCE = Source(
    repository="uncbiag/SegNext",
    commit="4c45ce8",
    folder="segnext",
    module="isegm",
    needs={"cv2": "opencv-python-headless<5"},
    light=("torchvision", "mmcv"),
)
#: Threshold on the probability in SegNext's evaluation (scripts/evaluate_model.py:56).
THRESHOLD = 0.49


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
    network = model_file(path, "isegm.model.is_plainvit_model").build_model(img_size=1024)
    if place.weights is not None:
        load_weights(network, state_dict(place.weights), place.weights)
    side = network.target_length
    identity = identity_of(
        place, code, label=variant.label, family="segnext", input_size=(side, side)
    )
    return SegNextContestant(network.eval().to(device), identity)


def model_file(path: Path, network_module: str) -> ModuleType:
    """Import a model file of RITM's family, without its dependencies for training.

    The file begins with a star import of everything that training needs. That module is replaced by
    one with only what building the network needs. Raises `NotHere` if the clone has no such file.
    """
    if not path.is_file():
        raise NotHere(f"the clone has no {path.name} in {path.parent}; it may be another version")
    imports = ModuleType("isegm.utils.exp_imports.default")
    network: Any = importlib.import_module(network_module)
    vars(imports)["PlainVitModel"] = network.PlainVitModel
    vars(imports)["edict"] = SimpleNamespace
    sys.modules["isegm.utils.exp_imports"] = ModuleType("isegm.utils.exp_imports")
    sys.modules[imports.__name__] = imports
    spec = importlib.util.spec_from_file_location("peer_model_file", path)
    if spec is None or spec.loader is None:
        raise NotHere(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def state_dict(path: Path) -> Any:
    """The weights in a checkpoint of RITM's family. Raises `CheckpointError`."""
    checkpoint = read_weights(path)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path}: expected a checkpoint with a `state_dict` entry")
    return checkpoint["state_dict"]


def clicker_of(clicks: Sequence[Click]) -> Any:
    """The clicks as the repository's own `Clicker`, with integer (y, x) coordinates."""
    inference = importlib.import_module("isegm.inference.clicker")
    clicker = inference.Clicker()
    for click in clicks:
        where = round(click.y), round(click.x)
        clicker.add_click(inference.Click(is_positive=click.positive, coords=where))
    return clicker


class SegNextContestant(TorchContestant):
    def __init__(self, network: Any, identity: Identity) -> None:
        super().__init__(network, identity)
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
