"""The real `segment-anything` package, and a small SAM with random weights.

The package needs three functions of torchvision, whose wheels must match PyTorch's build. If
torchvision cannot be imported, this module provides the three; everything else is Meta's code.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

CHANNELS = 32


def segment_anything() -> Any:
    """Import the package. Raises `ImportError` if it is not installed."""
    try:
        import torchvision  # noqa: F401
    except Exception:  # for another build of PyTorch it raises RuntimeError
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _provide_torchvision()
    import segment_anything

    return segment_anything


def small_sam() -> Any:
    """A SAM with the real input and embedding sizes, but few weights."""
    segment_anything()
    from segment_anything import modeling

    torch.manual_seed(0)
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=1024,
            patch_size=16,
            embed_dim=16,
            depth=1,
            num_heads=2,
            out_chans=CHANNELS,
            window_size=14,
            use_rel_pos=True,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=CHANNELS,
            image_embedding_size=(64, 64),
            input_image_size=(1024, 1024),
            mask_in_chans=4,
        ),
        mask_decoder=modeling.MaskDecoder(
            transformer_dim=CHANNELS,
            transformer=modeling.TwoWayTransformer(
                depth=1, embedding_dim=CHANNELS, num_heads=2, mlp_dim=32
            ),
            iou_head_depth=2,
            iou_head_hidden_dim=16,
        ),
    ).eval()


def _provide_torchvision() -> None:
    names = ("", ".transforms", ".transforms.functional", ".ops", ".ops.boxes")
    modules = {name: ModuleType("torchvision" + name) for name in names}
    functional: Any = modules[".transforms.functional"]
    functional.to_pil_image = Image.fromarray
    functional.resize = lambda image, size: image.resize(size[::-1], Image.Resampling.BILINEAR)
    boxes: Any = modules[".ops.boxes"]
    boxes.box_area = _areas
    boxes.batched_nms = _nms
    for name, module in modules.items():
        sys.modules["torchvision" + name] = module


def _areas(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _nms(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, iou_threshold: float
) -> torch.Tensor:
    """Non-maximum suppression for one group. boxes: (N, 4), two corners."""
    assert len(np.unique(groups)) <= 1
    kept: list[int] = []
    areas = _areas(boxes)
    for index in torch.argsort(scores, descending=True).tolist():
        low = torch.maximum(boxes[kept, :2], boxes[index, :2])
        high = torch.minimum(boxes[kept, 2:], boxes[index, 2:])
        common = (high - low).clamp(min=0).prod(dim=1)
        if (common <= iou_threshold * (areas[kept] + areas[index] - common)).all():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)
