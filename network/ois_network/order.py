"""Order maps and object masks: to which patches a slot may attend (paper §3.2, §3.3).

D is the relative depth, 0 near and 1 far: the depth head's inverse depth after min-max over the
image, inverted. Equations 1 and 2 give the same with and without the inversion.

    M⁺   = | D - mean_j D(p_j⁺) |      one map, shared by all positive clicks   (Eq. 1)
    M⁻_i = | D - D(p_i⁻) |             one map per negative click               (Eq. 2)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST_RANGE = 1e-6  # a flat depth map becomes all zeros instead of 0/0


def relative_depth(depth: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Inverse depth (B, ...) with its min and max (B,) -> D in [0, 1], 0 near and 1 far."""
    shape = (-1,) + (1,) * (depth.dim() - 1)
    span = (highest - lowest).clamp(min=_SMALLEST_RANGE)
    return (highest.view(shape) - depth) / span.view(shape)


def pool_to_grid(depth: Tensor, patch: int) -> Tensor:
    """The mean over each patch: (B, h, w) -> (B, gh, gw)."""
    return F.avg_pool2d(depth.unsqueeze(1), patch)[:, 0]


def sample_bilinear(image: Tensor, points: Tensor) -> Tensor:
    """Values of image (B, h, w) at points (N, P, 2): (N, P), interpolated bilinearly.

    points: (x, y) with pixel centres at integers; points outside are clamped to the border. B is N,
    or 1 for an image that all objects share. Uses gathers, because TensorRT 11 runs GridSample of
    newer opsets as nearest neighbour.
    """
    height, width = image.shape[-2:]
    flat = image.flatten(1)
    if flat.shape[0] != points.shape[0]:
        flat = flat.expand(points.shape[0], -1)
    x = points[..., 0].clamp(min=0).clamp(max=width - 1)
    y = points[..., 1].clamp(min=0).clamp(max=height - 1)
    left, top = x.floor(), y.floor()
    fx, fy = x - left, y - top
    left, top = left.long(), top.long()
    right = (left + 1).clamp(max=width - 1)
    bottom = (top + 1).clamp(max=height - 1)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return flat.gather(1, row * width + column)

    above = at(top, left) * (1 - fx) + at(top, right) * fx
    below = at(bottom, left) * (1 - fx) + at(bottom, right) * fx
    return above * (1 - fy) + below * fy


def slot_depths(depths: Tensor, labels: Tensor) -> Tensor:
    """The depth on which each slot's order map is centred, from the depth at its click; (N, 48).

    Positive slots get the mean over all positive clicks (Eq. 1), negative slots their own depth
    (Eq. 2). The values of empty slots mean nothing; `order_maps` ignores them.
    """
    half = labels.shape[1] // 2
    positive = (labels[:, :half] >= 0).to(depths.dtype)
    total = (depths[:, :half] * positive).sum(1, keepdim=True)
    mean = total / positive.sum(1, keepdim=True).clamp(min=1)
    return torch.cat((mean.expand(-1, half), depths[:, half:]), dim=1)


def order_maps(grid_depth: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """M (N, 48, K) from grid_depth (B, K), centres and labels (N, 48); 0 for empty slots."""
    distance = (grid_depth.unsqueeze(1) - centres.unsqueeze(2)).abs()
    return distance * (labels >= 0).unsqueeze(2).to(distance.dtype)


def blocked_keys(
    coverage: Tensor, has_previous: Tensor, labels: Tensor, *, empty: bool = False
) -> Tensor:
    """The patches to which a slot may not attend: (N, 48, K) bool, True = blocked (Eq. 4, 5).

    coverage (N, gh, gw) uint8, has_previous (N) bool, labels (N, 48). Positive slots attend to
    patches with any foreground of the previous mask, negative slots to patches with any background.
    Nothing is blocked without a previous mask, for slots whose patches would all be blocked, and
    for empty slots. empty: block keys of empty slots as of the clicks in their half
    (`NetworkConfig.mask_empty_slots`).
    """
    # int32, because not every provider of ONNX Runtime compares uint8.
    cover = coverage.flatten(1).to(torch.int32)
    foreground, background = cover > 0, cover < 255  # (N, K)
    block_positive = ~foreground & foreground.any(1, keepdim=True)
    block_negative = ~background & background.any(1, keepdim=True)
    active = has_previous.unsqueeze(1)
    active = active.expand_as(labels) if empty else (labels >= 0) & active  # (N, 48)
    half = labels.shape[1] // 2
    positive = active[:, :half].unsqueeze(2) & block_positive.unsqueeze(1)
    negative = active[:, half:].unsqueeze(2) & block_negative.unsqueeze(1)
    return torch.cat((positive, negative), dim=1)


def grid_coverage(coverage: Tensor, scale: int) -> Tensor:
    """The coverage of whole patches (N, gh, gw) uint8, from one with `scale` cells along each side
    of a patch. The same three cases: 0, 255, and between them if a patch has both."""
    if scale == 1:
        return coverage
    mean = F.avg_pool2d(coverage.unsqueeze(1).to(torch.float32), scale)[:, 0]
    inner = mean.round().clamp(min=1, max=254)
    smallest = 0.5 / scale**2  # a cell that is not empty adds twice as much to the mean
    inner = torch.where(mean < smallest, torch.zeros_like(inner), inner)
    full = torch.full_like(inner, 255)
    return torch.where(mean > 255 - smallest, full, inner).to(torch.uint8)


def coverage_of_logits(logits: Tensor, patch: int) -> Tensor:
    """The coverage (N, gh, gw) uint8 of the mask logits (N, h, w) > 0.

    Only a patch without foreground gets 0, and only a patch without background gets 255.
    """
    share = pool_to_grid((logits > 0).to(torch.float32), patch)
    inner = (share * 255).round().clamp(min=1, max=254)
    inner = torch.where(share < 0.5 / patch**2, torch.zeros_like(inner), inner)
    full = torch.full_like(inner, 255)
    return torch.where(share > 1 - 0.5 / patch**2, full, inner).to(torch.uint8)
