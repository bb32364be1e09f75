"""InterFormer through the predictor of its demo, with the demo's settings (`demo/gui/app.py`).

It is built on mmcv 1 and on the copy of mmsegmentation in its clone. The network uses none of
mmcv's compiled operators; mmsegmentation imports one of them for a loss. So the release of mmcv
that has only Python code is enough: `MMCV_WITH_OPS=0 pip install --no-deps mmcv==1.6.0`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from ois_benchmarks.contestants.base import Image, Mask, NotHere, Place
from ois_benchmarks.contestants.code import Source, open_code
from ois_benchmarks.contestants.torch_peer import (
    TorchContestant,
    identity_of,
    load_weights,
    prepare_torch,
    read_entry,
)
from ois_benchmarks.latency.result import Identity
from ois_client.contract.clicks import Click

SOURCE = Source(
    repository="YouHuang67/InterFormer",
    commit="c2d7f5d",
    module="interformer",
    needs={
        "mmcv": "mmcv==1.6.0",
        "addict": "addict",
        "yapf": "yapf",
        "terminaltables": "terminaltables",
        "prettytable": "prettytable",
        "wcwidth": "wcwidth",
        "einops": "einops",
        "cv2": "opencv-python-headless<5",
        "scipy": "scipy",
    },
    light=("torchvision", "mmcv.ops", "numpy"),
)
_PREDICTOR = {
    "zoom_in_params": {"skip_clicks": 2, "min_size": 32, "expansion_ratio": 1.4},
    "inner_radius": 5,
    "outer_radius": 0,
}
_SIZE_DIVISOR = 32
_NORMALISE = {
    "type": "Normalize",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "to_rgb": False,
}


@dataclass(frozen=True, slots=True)
class InterFormerVariant:
    """label: for tables. config: in the clone's `configs`."""

    label: str
    config: str


VARIANTS = {
    "interformer-light": InterFormerVariant(
        "InterFormer light (ViT-B)", "interformer_light_coco_lvis_320k.py"
    ),
    "interformer-tiny": InterFormerVariant(
        "InterFormer tiny (ViT-L)", "interformer_tiny_coco_lvis_320k.py"
    ),
}


def open_interformer(place: Place, variant: InterFormerVariant) -> InterFormerContestant:
    """Open InterFormer.

    Raises `NotHere` without its clone or mmcv, `CheckpointError` for weights of another network.
    """
    device = prepare_torch(place)
    code = open_code(SOURCE, place.checkout)
    folder = Path(place.checkout or ".")
    sys.path.insert(0, str(folder / "mmsegmentation"))
    config = _config(folder / "configs" / variant.config)
    network = _network(config)
    if place.weights is not None:
        load_weights(network, read_entry(place.weights, "state_dict"), place.weights)
    network.to(device).eval()
    network.cfg = config
    predictor = _predictors(folder).Predictor(network, device, _PREDICTOR)
    identity = identity_of(
        place, code, label=variant.label, family="interformer", input_size=(0, 0)
    )
    return InterFormerContestant(network, identity, predictor)


def _config(path: Path) -> Any:
    """The network's config, changed as `demo/main.py` does."""
    if not path.is_file():
        raise NotHere(f"the clone has no {path}; it may be another version")
    config: Any = importlib.import_module("mmcv").Config.fromfile(
        str(path), import_custom_modules=False
    )
    whole = {"img_scale": None, "ratio_range": (1.0, 1.0), "keep_ratio": True}
    padded = {"size": None, "size_divisor": _SIZE_DIVISOR, "pad_val": 0, "seg_pad_val": 0}
    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", **whole},
        {"type": "RandomFlip", "prob": 0.0},
        _NORMALISE,
        {"type": "Pad", **padded},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    config.merge_from_dict(
        {
            "model.backbone.type": "MAEWithSimpleFPN",
            "model.type": "ClickSegmentorZoomIn",
            "model.decode_head.norm_cfg": {"type": "BN", "requires_grad": True},
            "model.auxiliary_head.norm_cfg": {"type": "BN", "requires_grad": True},
            "data.test": {"pipeline": steps},
        }
    )
    config.model.pretrained = None
    config.model.train_cfg = None
    return config


def _network(config: Any) -> nn.Module:
    importlib.import_module("interformer")  # registers the parts of the network
    network: nn.Module = importlib.import_module("mmseg.models").build_segmentor(config.model)
    return network


def _predictors(folder: Path) -> Any:
    """The demo's module, without the rest of its package, which needs Tk."""
    path = folder / "demo" / "gui" / "predictor.py"
    spec = importlib.util.spec_from_file_location("peer_predictor", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise NotHere(f"the clone has no {path}; it may be another version")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class InterFormerContestant(TorchContestant):
    def __init__(self, network: nn.Module, identity: Identity, predictor: Any) -> None:
        super().__init__(network, identity)
        self._predictor = predictor

    def _encode(self, image: Image) -> None:
        self._predictor.set_input_image(image)
        height, width = self._predictor.img_pad_shape
        self.identity = replace(self.identity, input_size=(width, height))

    def click(self, clicks: Sequence[Click]) -> Mask:
        """Adds the last click to those before, whose labels the predictor keeps."""
        if len(clicks) == 1:
            self._predictor.partially_reset_predictor()
        where = round(clicks[-1].y), round(clicks[-1].x)
        new = SimpleNamespace(coords=where, is_positive=clicks[-1].positive)
        self._predictor.update_ref_label_by_new_click(new)
        mask: Mask = self._predictor.get_prediction(len(clicks), None) == 1
        return mask
