"""What training minimises: focal loss on masks, absolute error on depth, grouping of patches."""

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
    -alpha_t * beta * (pixels / sum(beta)) * log(p_t), alpha_t being alpha on the object and
    1 - alpha off it. The factor is a constant to the gradient.
    """
    logits, target = logits.float().flatten(1), target.float().flatten(1)
    inside = target > 0.5
    signed = torch.where(inside, logits, -logits)
    log_p = F.logsigmoid(signed)
    beta = (1 - log_p.exp()).clamp(min=0) ** gamma
    scale = beta.shape[1] / beta.detach().sum(1, keepdim=True).clamp(min=_SMALLEST)
    share = torch.where(inside, alpha, 1 - alpha)
    return (-share * beta * scale * log_p).mean(1)


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


#: How many of the projected features say which object a patch belongs to; and the cosine between
#: two patches as a logit: 1 -> +5, 0.5 -> 0, 0 -> -5.
_GROUPING_FEATURES = 64
_COSINE_SCALE, _COSINE_OFFSET = 10.0, 5.0


def grouping_loss(features: Tensor, instances: Tensor, patch: int) -> Tensor:
    """Patches of one object get similar features, all others different ones: -> (B,).

    Where all objects of an image are known, it teaches the encoder what a mask can only teach
    through a click: which patches belong together. (The paper's frozen encoder needs none of it.)

    features (B, K, C), C >= 64: what the fusion sees of the K = gh x gw patches; the first 64
    features are compared. instances (B, h, w) uint8, 0 = background: it has no likeness of its
    own, it is only unlike every object. Every object of an image counts the same: over pairs
    (a patch of it, another of it) the logistic loss is averaged, over pairs (a patch of it, one
    of something else) too, with focal weights, for most others are far away and easy.
    """
    shares = patch_shares(instances, patch)[..., 1:]  # (B, K, objects)
    if not shares.shape[-1]:
        return features.sum((1, 2)) * 0
    unit = F.normalize(features[..., :_GROUPING_FEATURES].float(), dim=-1)
    logits = _COSINE_SCALE * unit @ unit.mT - _COSINE_OFFSET  # (B, K, K)
    area = shares.sum(1, keepdim=True)
    within = shares / area.clamp(min=_SMALLEST)  # each object's patches, summing to one
    same = (within * (F.softplus(-logits) @ within)).sum(1)  # (B, objects)
    focal = logits.detach().sigmoid()
    others = 1 - shares
    unlike = ((focal * F.softplus(logits)) @ others) / (focal @ others).clamp(min=_SMALLEST)
    different = (within * unlike).sum(1)
    present = (area[:, 0] > 0).float()
    return ((same + different) * present).sum(1) / present.sum(1).clamp(min=1)


def patch_shares(instances: Tensor, patch: int) -> Tensor:
    """The share of each patch's pixels that an instance covers: (B, h, w) uint8 ->
    (B, gh * gw, 1 + the highest instance), rows summing to one."""
    count = int(instances.max()) + 1
    cells = instances.unflatten(1, (-1, patch)).unflatten(3, (-1, patch))  # (B, gh, p, gw, p)
    cells = cells.transpose(2, 3).flatten(3).flatten(1, 2).long()  # (B, K, p * p)
    shares = torch.zeros(*cells.shape[:2], count, device=instances.device)
    ones = torch.ones(1, 1, 1, device=instances.device).expand(cells.shape)
    return shares.scatter_add_(2, cells, ones) / cells.shape[2]
