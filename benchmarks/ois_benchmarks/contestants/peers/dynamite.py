"""DynaMITe through its own model, with the calls of its demo's controller.

Its attention over several scales has a form for CPUs in its own code, which it uses if its CUDA
kernel fails (`ms_deform_attn_core_pytorch`). The repository is built on detectron2, whose Python
code runs without its compiled operators. The package's `__init__` loads data sets for training, so
the modules of the network are imported without it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
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
    repository="amitrana001/DynaMITe",
    commit="ed865f6",
    module="dynamite",
    needs={
        "detectron2": "git+https://github.com/facebookresearch/detectron2",
        "fvcore": "fvcore",
        "iopath": "iopath",
        "yacs": "yacs",
        "termcolor": "termcolor",
        "tabulate": "tabulate",
        "cloudpickle": "cloudpickle",
        "portalocker": "portalocker",
        "omegaconf": "omegaconf",
        "einops": "einops",
        "cv2": "opencv-python-headless<5",
        "pycocotools": "pycocotools",
    },
    light=("torchvision", "timm", "MultiScaleDeformableAttention"),
)


@dataclass(frozen=True, slots=True)
class DynamiteVariant:
    """label: for tables. config: in the clone's `configs/coco_lvis`."""

    label: str
    config: str


VARIANTS = {
    "dynamite-swin-tiny": DynamiteVariant(
        "DynaMITe Swin-T", "swin/dynamite_swin_tiny_bs32_ep50.yaml"
    ),
    "dynamite-hrnet32": DynamiteVariant(
        "DynaMITe HRNet-32", "hrnet/dynamite_hrnet32_bs32_ep50.yaml"
    ),
}


def open_dynamite(place: Place, variant: DynamiteVariant) -> DynamiteContestant:
    """Open DynaMITe.

    Raises `NotHere` without its clone or detectron2, `CheckpointError` for weights of another
    network.
    """
    device = prepare_torch(place)
    code = open_code(SOURCE, place.checkout)
    folder = Path(place.checkout or ".")
    config = _config(folder, variant)
    config.MODEL.DEVICE = str(device)
    network = importlib.import_module("detectron2.modeling").build_model(config)
    if place.weights is not None:
        load_weights(network, read_entry(place.weights, "model"), place.weights)
    transforms = importlib.import_module("detectron2.data.transforms")
    shortest, longest = config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST
    resize = transforms.ResizeShortestEdge([shortest, shortest], longest)
    identity = identity_of(
        place, code, label=variant.label, family="dynamite", input_size=(longest, shortest)
    )
    return DynamiteContestant(network.eval(), identity, resize)


def _config(folder: Path, variant: DynamiteVariant) -> Any:
    """As `demo.py` makes it."""
    path = folder / "configs" / "coco_lvis" / variant.config
    if not path.is_file():
        raise NotHere(f"the clone has no {path}; it may be another version")
    package = ModuleType("dynamite")
    package.__path__ = [str(folder / "dynamite")]
    sys.modules["dynamite"] = package
    config: Any = importlib.import_module("detectron2.config").get_cfg()
    importlib.import_module("detectron2.projects.deeplab").add_deeplab_config(config)
    ours = importlib.import_module("dynamite.config")
    ours.add_maskformer2_config(config)
    ours.add_hrnet_config(config)
    importlib.import_module("dynamite.dynamite_model")  # registers the networks
    config.merge_from_file(str(path))
    return config


class DynamiteContestant(TorchContestant):
    def __init__(self, network: nn.Module, identity: Identity, resize: Any) -> None:
        super().__init__(network, identity)
        self._resize = resize

    def _encode(self, image: Image) -> None:
        """The backbone and the pixel decoder, which the demo runs with the first click."""
        height, width = image.shape[:2]
        scaled = self._resize.get_transform(image).apply_image(image)
        pixels = torch.as_tensor(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
        self._inputs = [{"image": pixels, "height": height, "width": width}]
        self._scale = pixels.shape[2] / width, pixels.shape[1] / height
        self._images = self._normalised(pixels)
        self._features = self.network.backbone(self._images.tensor)
        decoder = self.network.sem_seg_head.pixel_decoder
        self._mask_features, _, self._levels = decoder.forward_features(self._features)
        self.identity = replace(self.identity, input_size=(pixels.shape[2], pixels.shape[1]))

    def _normalised(self, pixels: torch.Tensor) -> Any:
        network = self.network
        images = [(pixels.to(network.device) - network.pixel_mean) / network.pixel_std]
        batches = importlib.import_module("detectron2.structures").ImageList
        return batches.from_tensors(images, network.size_divisibility)

    def click(self, clicks: Sequence[Click]) -> Mask:
        """All clicks are queries of one call; there is no previous mask."""
        across, down = self._scale
        points = [
            ([click.y * down, click.x * across, number], click.positive)
            for number, click in enumerate(clicks)
        ]
        inside = [point for point, positive in points if positive]
        outside = [point for point, positive in points if not positive]
        found = self.network(
            self._inputs,
            self._images,
            [1],
            self._features,
            self._mask_features,
            self._levels,
            [[len(inside)]],
            [[inside]],
            [outside or None],
            max_timestamp=[max(1, len(clicks) - 1)],
        )
        mask: Mask = found[0][0]["instances"].pred_masks[0].cpu().numpy() > 0
        return mask
