"""Inter2Former through its own segmentor, with the calls of its test loop at a target size.

It is built on mmcv 2, mmengine and the copy of mmsegmentation in its clone. As with InterFormer,
the network uses none of mmcv's compiled operators. Its own C++ extensions make it faster on a CPU;
a row without them says so. InterFormer needs mmcv 1, so each has an environment of its own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
    repository="YouHuang67/inter2former",
    commit="028dd20",
    module="inter2former",
    needs={
        "mmcv": "mmcv-lite==2.0.1",
        "mmengine": "mmengine<1",
        "addict": "addict",
        "yapf": "yapf",
        "termcolor": "termcolor",
        "einops": "einops",
        "prettytable": "prettytable",
        "wcwidth": "wcwidth",
        "cv2": "opencv-python-headless<5",
        "scipy": "scipy",
    },
    light=("torchvision", "timm", "mmcv.ops"),
)
_EXTENSIONS = (
    "inter2former.cpp_extension.fast_moe._fast_moe_linear",
    "inter2former.cpp_extension.fast_mask_convert._fast_mask_convert",
)
#: `configs/inter2former.py`, `configs/eval_custom/ts1024.py`.
_CONFIG = "configs/inter2former.py"
_SEGMENTOR = "Inter2FormerClickSegmentorBSQATargetSize"


@dataclass(frozen=True, slots=True)
class Inter2FormerVariant:
    """label: for tables. side: of the network's square input."""

    label: str
    side: int


VARIANTS = {
    "inter2former-1024": Inter2FormerVariant("Inter2Former 1024", 1024),
    "inter2former-2048": Inter2FormerVariant("Inter2Former 2048", 2048),
}


def open_inter2former(place: Place, variant: Inter2FormerVariant) -> Inter2FormerContestant:
    """Open Inter2Former.

    Raises `NotHere` without its clone or packages, `CheckpointError` for weights of another
    network.
    """
    device = prepare_torch(place)
    code = open_code(SOURCE, place.checkout)
    folder = Path(place.checkout or ".")
    if not (folder / _CONFIG).is_file():
        raise NotHere(f"the clone has no {_CONFIG}; it may be another version")
    sys.path.insert(0, str(folder / "mmsegmentation"))
    network = _network(folder)
    if place.weights is not None:
        load_weights(network, read_entry(place.weights, "state_dict"), place.weights)
    missing = [name.rpartition(".")[2] for name in _EXTENSIONS if not _imports(name)]
    identity = identity_of(
        place,
        code,
        label=variant.label,
        family="inter2former",
        input_size=(variant.side, variant.side),
        warnings=[f"its C++ extension {name} is not compiled" for name in missing],
    )
    return Inter2FormerContestant(network.eval().to(device), identity, variant.side)


def _network(folder: Path) -> nn.Module:
    # mmengine registers an optimizer of transformers, whose import fails beside a stand-in.
    sys.modules.setdefault("transformers", None)  # type: ignore[arg-type]
    config: Any = importlib.import_module("mmengine.config").Config.fromfile(
        str(folder / _CONFIG), import_custom_modules=False
    )
    importlib.import_module("mmengine.registry").init_default_scope("mmseg")
    importlib.import_module("inter2former")  # registers the parts of the network
    model = config.model
    model.type = _SEGMENTOR
    model.init_cfg = None
    model.decode_head.type = "DynamicLocalUpsampling"
    model.data_preprocessor = config.data_preprocessor
    network: nn.Module = importlib.import_module("mmseg.registry").MODELS.build(model)
    return network


def _imports(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


class Inter2FormerContestant(TorchContestant):
    def __init__(self, network: nn.Module, identity: Identity, side: int) -> None:
        super().__init__(network, identity)
        self._side = side

    def _encode(self, image: Image) -> None:
        network = self.network
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
        normalise = network.data_preprocessor
        pixels = (pixels.to(normalise.mean.device) - normalise.mean) / normalise.std
        self._size = image.shape[:2]
        longest = max(self._size)
        self._scale = self._side / longest
        padded = nn.functional.pad(
            pixels, (0, longest - image.shape[1], 0, longest - image.shape[0])
        )
        self._resized = nn.functional.interpolate(
            padded, (self._side, self._side), mode="bilinear", align_corners=False
        )
        self._features = network.backbone(self._resized)
        self._edges = network.edge_detector(self._resized)

    def click(self, clicks: Sequence[Click]) -> Mask:
        """Adds the last click to those before, whose labels are kept, as `interact_test` does."""
        network = self.network
        clicking = importlib.import_module("engine.utils.click")
        if len(clicks) == 1:
            unknown = importlib.import_module("inter2former.utils").REF_UNKNOWN
            self._labels = torch.ones_like(self._resized)[:, :1] * unknown
        new = clicks[-1]
        sign = clicking.CLK_POSITIVE if new.positive else clicking.CLK_NEGATIVE
        point = int(self._scale * round(new.y)), int(self._scale * round(new.x)), sign
        self._labels = network.update_ref_label_by_point_lists(
            self._labels, [[point]], inner_radius=5, outer_radius=0, fast_mode=True
        )
        logits = network.decode_head(
            network.neck(self._features, ref_label=self._labels), self._edges
        )
        longest, (height, width) = max(self._size), self._size
        at_side = network.interpolate(logits, (self._side, self._side))
        found = network.convert_logits_to_labels(at_side, torch.int64)
        self._labels = network.update_ref_label_by_prediction(self._labels, found)
        whole = network.interpolate(logits, (longest, longest))
        labels = network.convert_logits_to_labels(whole, torch.int64)
        mask: Mask = labels[0, 0, :height, :width].cpu().numpy() == 1
        return mask
