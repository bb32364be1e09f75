"""What training minimises: normalised focal loss on masks, absolute error on depth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST = 1e-6


def normalised_focal_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 0.5, gamma: float = 2.0
) -> Tensor:
    """RITM's NFL, used by SimpleClick, SegNext and OIS: focal loss whose weights sum to one.

    logits (N, h, w), target (N, h, w) 0/1 -> (N,), averaged over each object's pixels. With
    p_t the probability of the true class and beta = (1 - p_t)^gamma:
    -alpha * beta * (pixels / sum(beta)) * log(p_t). The factor is a constant to the gradient.
    """
    logits, target = logits.float().flatten(1), target.float().flatten(1)
    signed = torch.where(target > 0.5, logits, -logits)
    log_p = F.logsigmoid(signed)
    beta = (1 - log_p.exp()).clamp(min=0) ** gamma
    scale = beta.shape[1] / beta.detach().sum(1, keepdim=True).clamp(min=_SMALLEST)
    return (-alpha * beta * scale * log_p).mean(1)


def soft_iou_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft IoU: (N, h, w) twice -> (N,). Small objects count as much as large ones."""
    p, target = logits.float().sigmoid().flatten(1), target.float().flatten(1)
    both = (p * target).sum(1)
    return 1 - (both + 1) / (p.sum(1) + target.sum(1) - both + 1)


def depth_l1_loss(depth: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error: predicted and exact inverse depth, (B, h, w) -> (B,)."""
    return (depth.float() - target).abs().mean((1, 2))


def depth_ssi_loss(depth: Tensor, target: Tensor) -> Tensor:
    """Scale-and-shift-invariant error (MiDaS): both maps with median 0 and mean deviation 1.

    For data whose inverse depth is known up to scale and shift only. (B, h, w) -> (B,).
    """

    def standardise(x: Tensor) -> Tensor:
        flat = x.float().flatten(1)
        centred = flat - flat.median(1, keepdim=True).values
        return centred / centred.abs().mean(1, keepdim=True).clamp(min=_SMALLEST)

    return (standardise(depth) - standardise(target)).abs().mean(1)
