"""Small replacements for missing libraries of which peers use only a few functions.

SAM and SegNext need four functions of torchvision, FocalClick a fifth, SAM 2 two transforms;
TinyViT and SegFormer need helpers of timm; SegNext, SimpleClick and FocalClick need one layer of
mmcv; the logger of RITM's family needs a class of tensorboard; RITM uses names that NumPy has
removed. SegNext and SimpleClick import OpenCV and SciPy for training, drawing and simulated clicks,
InterFormer a compiled operator of mmcv for a loss, DynaMITe a CUDA kernel that its code replaces.
A torchvision works only with its own build of PyTorch, timm needs torchvision, and mmcv 1.x is no
longer built. The functions that compute something (`resize`, `to_tensor`, `Resize`, `Normalize`,
`roi_align`, non-maximum suppression, `ConvModule`) do the same as the originals. Rows that were
measured with a stand-in carry a warning.
"""

from __future__ import annotations

import importlib
import math
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
        "mmcv.ops": ("mmcv.ops", lambda: {"mmcv.ops": {"__getattr__": _unused_name}}),
        "MultiScaleDeformableAttention": (
            "MultiScaleDeformableAttention",
            lambda: {"MultiScaleDeformableAttention": {}},
        ),
        "tensorboard": ("torch.utils.tensorboard", _tensorboard),
        "skimage": ("skimage.measure", lambda: _unused("skimage.measure", "label")),
        "IPython": ("IPython", lambda: _unused("IPython", "embed")),
        "attr": ("attr", lambda: {"attr": {}}),
        "cv2": ("cv2", lambda: {"cv2": {"__getattr__": _unused_name}}),
        "scipy": ("scipy.optimize", _scipy),
    }
    warnings = []
    for library in libraries:
        if library == "numpy":
            warnings += _restore_numpy_names()
            continue
        needed, contents = known[library]
        if _imports(needed):
            continue
        for name in [each for each in sys.modules if f"{each}.".startswith(f"{library}.")]:
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
            # A function hides the module of the same name, as in `torchvision.ops.roi_align`.
            setattr(sys.modules[parent], child, members.get(child, module))


class _Unused:
    """Stands for classes that peers import but do not call in benchmarks."""

    def __init__(self, *_args: object, **_options: object) -> None:
        raise NotImplementedError("this has no stand-in; install the library")


def _unused(module: str, *names: str) -> dict[str, dict[str, Any]]:
    """A library of which peers import `names` and call none."""
    parent = module.partition(".")[0]
    return {parent: {}, module: dict.fromkeys(names, _Unused)}


def _unused_name(name: str) -> type[_Unused]:
    """Any function or constant of a library of which peers call none (PEP 562)."""
    if name.startswith("__"):
        raise AttributeError(name)
    return _Unused


def _scipy() -> dict[str, dict[str, Any]]:
    """For BRS, which no row uses, and a data set."""
    return {
        "scipy": {},
        "scipy.optimize": {"fmin_l_bfgs_b": _Unused},
        "scipy.io": {"loadmat": _Unused},
    }


def _restore_numpy_names() -> list[str]:
    """`np.int` and others, which NumPy removed in 1.24: other names of Python's own types."""
    missing = [each for each in (int, float, bool) if each.__name__ not in vars(np)]
    for kind in missing:
        setattr(np, kind.__name__, kind)
    names = ", ".join(f"numpy.{kind.__name__}" for kind in missing)
    return [f"{names}: removed from NumPy, put back"] if missing else []


# -- torchvision ---------------------------------------------------------------------------


def _torchvision() -> dict[str, dict[str, Any]]:
    return {
        "torchvision": {},
        "torchvision.transforms": {
            "ToTensor": lambda: to_tensor,
            "Resize": Resize,
            "Normalize": Normalize,
        },
        "torchvision.transforms.functional": {"resize": resize, "to_pil_image": Image.fromarray},
        # detectron2 imports them for boxes.
        "torchvision.ops": dict.fromkeys(("deform_conv2d", "nms", "RoIPool"), _Unused),
        "torchvision.ops.boxes": {"batched_nms": batched_nms, "box_area": box_area},
        "torchvision.ops.roi_align": {"roi_align": roi_align},
    }


def to_tensor(image: np.ndarray[Any, Any]) -> Tensor:
    """(C, H, W) float32 in 0..1 from (H, W, C) uint8."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div(255)


def resize(image: Image.Image, size: Sequence[int]) -> Image.Image:
    """Resize a PIL image to (height, width), bilinear, as torchvision does."""
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


class Resize(nn.Module):
    """Resizes (C, H, W) to (height, width), bilinear with antialiasing, as torchvision does."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.height, self.width = size

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.interpolate(
            image.unsqueeze(0),
            (self.height, self.width),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )[0]


class Normalize(nn.Module):
    """(C, H, W) minus the mean, divided by the standard deviation of each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = list(mean), list(std)

    def forward(self, image: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, dtype=image.dtype, device=image.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=image.dtype, device=image.device).view(-1, 1, 1)
        return (image - mean) / std


def roi_align(
    features: Tensor,
    boxes: Tensor,
    output_size: Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Crops of features (N, C, H, W), averaged over each cell: (K, C, rows, columns).

    boxes: (K, 5): number of the image, x0, y0, x1, y1. Each cell is the mean of bilinear samples,
    as many as the cell has pixels in each direction, or `sampling_ratio`.
    """
    shift = 0.5 if aligned else 0.0
    crops = []
    for box in boxes:
        image = features[int(box[0])]
        x0, y0, x1, y1 = (float(side) * spatial_scale - shift for side in box[1:])
        width, height = x1 - x0, y1 - y0
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        rows = _samples(y0, height, output_size[0], image.shape[1], sampling_ratio, image)
        image = _averaged(image, rows, output_size[0], axis=1)
        columns = _samples(x0, width, output_size[1], image.shape[2], sampling_ratio, image)
        crops.append(_averaged(image, columns, output_size[1], axis=2))
    return torch.stack(crops)


def _samples(
    start: float, length: float, cells: int, size: int, ratio: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions below and above each sample along one axis, and the share of the one above.

    Samples that lie more than one pixel outside have position -1, which counts as zero.
    """
    each = ratio if ratio > 0 else max(1, math.ceil(length / cells))
    steps = (torch.arange(cells * each, device=like.device, dtype=like.dtype) + 0.5) / each
    place = start + steps * (length / cells)
    outside = (place < -1) | (place > size)
    place = place.clamp(min=0)
    low = place.floor().clamp(max=size - 1)
    share = torch.where(low >= size - 1, torch.zeros_like(place), place - low)
    high = (low + 1).clamp(max=size - 1)
    gone = torch.full_like(low, -1)
    return torch.where(outside, gone, low).long(), high.long(), share


def _averaged(
    image: Tensor, samples: tuple[Tensor, Tensor, Tensor], cells: int, *, axis: int
) -> Tensor:
    """The mean of the samples of each cell along `axis` of image (C, H, W)."""
    low, high, share = samples
    shape = (-1, 1) if axis == 1 else (-1,)
    weight, there = share.view(shape), (low >= 0).to(image.dtype).view(shape)
    below = image.index_select(axis, low.clamp(min=0))
    above = image.index_select(axis, high)
    mixed = (below * (1 - weight) + above * weight) * there
    return mixed.unflatten(axis, (cells, -1)).mean(axis + 1)


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
        "drop_path": lambda x, *_arguments, **_options: x,  # the identity in inference
        "to_2tuple": lambda x: x if isinstance(x, tuple) else (x, x),
        "trunc_normal_": nn.init.trunc_normal_,
    }
    return {
        "timm": {},
        "timm.models": {},
        "timm.models.layers": layers,
        "timm.models.registry": {"register_model": lambda function: function},
        "timm.models.vision_transformer": {"_cfg": lambda **options: options},
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
            "DepthwiseSeparableConvModule": _Unused,
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
    """Convolution, batch norm if asked for, and ReLU, with mmcv's parameter names."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: object = _RELU,
        **options: Any,
    ) -> None:
        super().__init__()
        norm = (norm_cfg or {}).get("type")
        if norm not in (None, "BN") or act_cfg != _RELU:
            raise NotImplementedError(
                "the stand-in for ConvModule supports only ReLU, and BN or no norm"
            )
        # A norm has its own bias.
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, bias=norm is None, **options)
        self.bn = nn.BatchNorm2d(out_channels) if norm else None
        self.activate = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        out: Tensor = self.activate(x)
        return out


class Registry:
    """mmcv's registry of classes. Nothing can be built from it."""

    def __init__(self, name: str, **_options: object) -> None:
        self.name = name

    def register_module(self, *_names: object, **_options: object) -> Callable[[Any], Any]:
        return lambda registered: registered

    def build(self, *_args: object, **_options: object) -> Any:
        raise NotImplementedError(f"the stand-in for the registry {self.name} builds nothing")
