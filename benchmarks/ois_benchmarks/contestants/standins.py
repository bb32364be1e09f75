"""Small stand-ins for libraries that peers import and hardly use, where those are missing.

SAM and SegNext need four functions of torchvision, TinyViT three helpers of timm, SegNext and
SimpleClick one layer of mmcv, SimpleClick's logger a class of tensorboard. torchvision fits only
its own build of PyTorch, timm needs torchvision, and mmcv 1.x is no longer built. What computes
here (`resize`, `to_tensor`, non-maximum suppression, `ConvModule`) does what the original does;
every row that ran with a stand-in says so.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

_RELU = {"type": "ReLU"}


def supply_missing(libraries: Sequence[str]) -> tuple[str, ...]:
    """Put a stand-in under the name of each of these that cannot be imported -> warnings."""
    known: dict[str, tuple[str, Callable[[], dict[str, dict[str, Any]]]]] = {
        "torchvision": ("torchvision.transforms.functional", _torchvision),
        "timm": ("timm.models.layers", _timm),
        "mmcv": ("mmcv.runner", _mmcv),
        "tensorboard": ("torch.utils.tensorboard", _tensorboard),
    }
    warnings = []
    for library in libraries:
        needed, contents = known[library]
        if _imports(needed):
            continue
        for name in [each for each in sys.modules if each.split(".")[0] == library]:
            del sys.modules[name]
        _install(contents())
        warnings.append(f"{library} cannot be imported here; a stand-in serves its code")
    return tuple(warnings)


def _imports(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:  # a torchvision of another PyTorch raises RuntimeError
        return False
    return True


def _install(modules: dict[str, dict[str, Any]]) -> None:
    for name, members in modules.items():
        module = ModuleType(name)
        module.__path__ = []  # a package, so that its parts can be imported
        vars(module).update(members)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


class _NotHere:
    """What peers import and, as they are used here, never call."""

    def __init__(self, *_args: object, **_options: object) -> None:
        raise NotImplementedError("this has no stand-in; install the library itself")


# -- torchvision ---------------------------------------------------------------------------


def _torchvision() -> dict[str, dict[str, Any]]:
    return {
        "torchvision": {},
        "torchvision.transforms": {"ToTensor": lambda: to_tensor},
        "torchvision.transforms.functional": {"resize": resize, "to_pil_image": Image.fromarray},
        "torchvision.ops": {},
        "torchvision.ops.boxes": {"batched_nms": batched_nms, "box_area": box_area},
    }


def to_tensor(image: np.ndarray[Any, Any]) -> Tensor:
    """(H, W, C) uint8 -> (C, H, W) float32 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div(255)


def resize(image: Image.Image, size: Sequence[int]) -> Image.Image:
    """A PIL image to (height, width), bilinear, as torchvision resizes PIL images."""
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def box_area(boxes: Tensor) -> Tensor:
    """(N, 4) x0, y0, x1, y1 -> (N)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, categories: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression within each category -> indices, best score first."""
    kept: list[int] = []
    order = scores.argsort(descending=True).tolist()
    areas = box_area(boxes)
    for one in order:
        others = torch.tensor(
            [k for k in kept if categories[k] == categories[one]], dtype=torch.long
        )
        low = torch.maximum(boxes[others, :2], boxes[one, :2])
        high = torch.minimum(boxes[others, 2:], boxes[one, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        if (shared <= iou_threshold * (areas[others] + areas[one] - shared)).all():
            kept.append(one)
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


# -- timm ----------------------------------------------------------------------------------


def _timm() -> dict[str, dict[str, Any]]:
    layers = {
        "DropPath": DropPath,
        "to_2tuple": lambda x: x if isinstance(x, tuple) else (x, x),
        "trunc_normal_": nn.init.trunc_normal_,
    }
    return {
        "timm": {},
        "timm.models": {},
        "timm.models.layers": layers,
        "timm.models.registry": {"register_model": lambda function: function},
    }


class DropPath(nn.Module):
    """Stochastic depth; a benchmark never trains, so it passes everything on."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        return x


# -- tensorboard ---------------------------------------------------------------------------


def _tensorboard() -> dict[str, dict[str, Any]]:
    return {"torch.utils.tensorboard": {"SummaryWriter": _NotHere}}


# -- mmcv ----------------------------------------------------------------------------------


def _mmcv() -> dict[str, dict[str, Any]]:
    def decorator(**_options: object) -> Callable[[Any], Any]:
        return lambda function: function

    registry = Registry("mmcv")
    return {
        "mmcv": {},
        "mmcv.cnn": {
            "ConvModule": ConvModule,
            "MODELS": registry,
            "build_conv_layer": _NotHere,
            "build_norm_layer": _NotHere,
        },
        "mmcv.cnn.bricks": {},
        "mmcv.cnn.bricks.registry": {"ATTENTION": registry},
        "mmcv.fileio": dict.fromkeys(("FileClient", "load"), _NotHere),
        "mmcv.parallel": {"is_module_wrapper": _NotHere},
        "mmcv.utils": {
            "Registry": Registry,
            **dict.fromkeys(("build_from_cfg", "get_logger", "mkdir_or_exist"), _NotHere),
        },
        "mmcv.runner": {
            "BaseModule": BaseModule,
            "auto_fp16": decorator,
            "force_fp32": decorator,
            "get_dist_info": _NotHere,
        },
        "mmcv.runner.base_module": {"BaseModule": BaseModule},
    }


class BaseModule(nn.Module):
    """A module that could initialise itself from a config."""

    def __init__(self, init_cfg: object = None) -> None:
        super().__init__()
        self.init_cfg = init_cfg


class ConvModule(nn.Module):
    """Convolution and ReLU, under the names of mmcv's; with a norm it would be another layer."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm_cfg: object = None,
        act_cfg: object = _RELU,
        **options: Any,
    ) -> None:
        super().__init__()
        if norm_cfg is not None or act_cfg != _RELU:
            raise NotImplementedError("only ConvModule with ReLU and no norm has a stand-in")
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, **options)
        self.activate = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activate(self.conv(x))
        return out


class Registry:
    """Names -> classes; nothing is ever looked up in it here."""

    def __init__(self, name: str, **_options: object) -> None:
        self.name = name

    def register_module(self, *_names: object, **_options: object) -> Callable[[Any], Any]:
        return lambda registered: registered

    def build(self, *_args: object, **_options: object) -> Any:
        raise NotImplementedError(f"nothing is built from the registry {self.name} here")
