"""Small replacements for missing libraries of which peers use only a few functions.

SAM and SegNext need four functions of torchvision; TinyViT needs three helpers of timm; SegNext and
SimpleClick need one layer of mmcv; SimpleClick's logger needs a class of tensorboard. A torchvision
works only with its own build of PyTorch, timm needs torchvision, and mmcv 1.x is no longer built.
The functions that compute something (`resize`, `to_tensor`, non-maximum suppression, `ConvModule`)
do the same as the originals. Rows that were measured with a stand-in carry a warning.
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
    """Install a stand-in for each library that cannot be imported. Returns the warnings."""
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
        warnings.append(f"{library} cannot be imported; a stand-in replaces it")
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
        module.__path__ = []  # makes it a package, so that submodules can be imported
        vars(module).update(members)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


class _Unused:
    """Stands for classes that peers import but do not call in benchmarks."""

    def __init__(self, *_args: object, **_options: object) -> None:
        raise NotImplementedError("this has no stand-in; install the library")


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
    """(C, H, W) float32 in 0..1 from (H, W, C) uint8."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div(255)


def resize(image: Image.Image, size: Sequence[int]) -> Image.Image:
    """Resize a PIL image to (height, width), bilinear, as torchvision does."""
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def box_area(boxes: Tensor) -> Tensor:
    """Areas (N) of boxes (N, 4): x0, y0, x1, y1."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, categories: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression within each category. Returns indices, best score first."""
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
    """Stochastic depth, which is the identity in inference."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        return x


# -- tensorboard ---------------------------------------------------------------------------


def _tensorboard() -> dict[str, dict[str, Any]]:
    return {"torch.utils.tensorboard": {"SummaryWriter": _Unused}}


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
            "build_conv_layer": _Unused,
            "build_norm_layer": _Unused,
        },
        "mmcv.cnn.bricks": {},
        "mmcv.cnn.bricks.registry": {"ATTENTION": registry},
        "mmcv.fileio": dict.fromkeys(("FileClient", "load"), _Unused),
        "mmcv.parallel": {"is_module_wrapper": _Unused},
        "mmcv.utils": {
            "Registry": Registry,
            **dict.fromkeys(("build_from_cfg", "get_logger", "mkdir_or_exist"), _Unused),
        },
        "mmcv.runner": {
            "BaseModule": BaseModule,
            "auto_fp16": decorator,
            "force_fp32": decorator,
            "get_dist_info": _Unused,
        },
        "mmcv.runner.base_module": {"BaseModule": BaseModule},
    }


class BaseModule(nn.Module):
    """mmcv's base class; the config of its initialisation is ignored."""

    def __init__(self, init_cfg: object = None) -> None:
        super().__init__()
        self.init_cfg = init_cfg


class ConvModule(nn.Module):
    """Convolution and ReLU, with mmcv's parameter names. Norms are not supported."""

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
            raise NotImplementedError("the stand-in for ConvModule supports only ReLU and no norm")
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, **options)
        self.activate = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activate(self.conv(x))
        return out


class Registry:
    """mmcv's registry of classes. Nothing can be built from it."""

    def __init__(self, name: str, **_options: object) -> None:
        self.name = name

    def register_module(self, *_names: object, **_options: object) -> Callable[[Any], Any]:
        return lambda registered: registered

    def build(self, *_args: object, **_options: object) -> Any:
        raise NotImplementedError(f"the stand-in for the registry {self.name} builds nothing")
