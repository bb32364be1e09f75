"""What RITM's repository and those that grew from it share: SegNext, SimpleClick, FocalClick.

They all have a package `isegm` with a `Clicker`, model files that build a network, and checkpoints
with a `state_dict`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from ois_benchmarks.contestants.base import Image, Mask, NotHere
from ois_benchmarks.contestants.torch_peer import TorchContestant, read_entry
from ois_benchmarks.latency.result import Identity
from ois_client.contract.clicks import Click

#: Threshold on the probability in their evaluations (SegNext's scripts/evaluate_model.py:56).
THRESHOLD = 0.49


def model_file(path: Path, *networks: str) -> Any:
    """Import a model file, without its dependencies for training.

    The file begins with a star import of everything that training needs. That module is replaced by
    one with only what building the network needs. networks: "module:name" of what it uses from
    there, such as "isegm.model.is_hrnet_model:HRNetModel"; "module" for a module. Raises `NotHere`
    if the clone has no such file.
    """
    if not path.is_file():
        raise NotHere(f"the clone has no {path.name} in {path.parent}; it may be another version")
    imports = ModuleType("isegm.utils.exp_imports.default")
    for network in networks:
        module, colon, name = network.partition(":")
        found: Any = importlib.import_module(module)
        vars(imports)[name or module.rpartition(".")[2]] = getattr(found, name) if colon else found
    vars(imports)["edict"] = SimpleNamespace
    sys.modules["isegm.utils.exp_imports"] = ModuleType("isegm.utils.exp_imports")
    sys.modules[imports.__name__] = imports
    spec = importlib.util.spec_from_file_location("peer_model_file", path)
    if spec is None or spec.loader is None:
        raise NotHere(f"{path} cannot be imported")
    module_ = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module_)
    return module_


def state_dict(path: Path) -> Any:
    """The weights in a checkpoint of RITM's family. Raises `CheckpointError`."""
    return read_entry(path, "state_dict")


def clicker_of(clicks: Sequence[Click]) -> Any:
    """The clicks as the repository's own `Clicker`, with integer (y, x) coordinates."""
    inference = importlib.import_module("isegm.inference.clicker")
    clicker = inference.Clicker()
    for click in clicks:
        where = round(click.y), round(click.x)
        clicker.add_click(inference.Click(is_positive=click.positive, coords=where))
    return clicker


class PredictorContestant(TorchContestant):
    """A predictor of `isegm.inference.predictors`; every click runs the whole network."""

    encodes = False

    def __init__(self, predictor: Any, identity: Identity) -> None:
        super().__init__(predictor.net, identity)
        self._predictor = predictor

    def _encode(self, image: Image) -> None:
        self._pixels = image
        self._predictor.set_input_image(image)

    def click(self, clicks: Sequence[Click]) -> Mask:
        if len(clicks) == 1:  # resets the previous mask and the crop
            self._predictor.set_input_image(self._pixels)
        mask: Mask = self._predictor.get_prediction(clicker_of(clicks)) > THRESHOLD
        return mask
