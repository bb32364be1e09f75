"""Losses: focal loss and soft IoU on masks, errors of depth, grouping of patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ois_client.contract.clicks import POSITIVE
from ois_network.order import sample_bilinear

_SMALLEST = 1e-6


def normalised_focal_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 0.5, gamma: float = 2.0
) -> Tensor:
    """RITM's NFL, which SimpleClick, SegNext and OIS use: a focal loss with normalised weights.

    logits (N, h, w), target (N, h, w) 0/1 -> (N,), the mean over the pixels of each object of
    -alpha_t * beta * (pixels / sum(beta)) * log(p_t). p_t is the probability of the true class,
    beta = (1 - p_t)^gamma, and alpha_t is alpha on the object and 1 - alpha outside. No gradient
    flows through sum(beta).
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
    """1 - soft IoU of logits and target (N, h, w): (N,). All objects have the same weight."""
    p, target = logits.float().sigmoid().flatten(1), target.float().flatten(1)
    both = (p * target).sum(1)
    return 1 - (both + 1) / (p.sum(1) + target.sum(1) - both + 1)


def click_loss(logits: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """The mean logistic error at the clicked pixels: (N,).

    logits (N, h, w); points (N, S, 2) and labels (N, S), as in `Prompts`. A positive click must be
    inside the mask and a negative one outside, whatever the rest of the mask is.
    """
    at_clicks = sample_bilinear(logits.float(), points)
    signed = torch.where(labels == POSITIVE, at_clicks, -at_clicks)
    filled = (labels >= 0).float()
    return (F.softplus(-signed) * filled).sum(1) / filled.sum(1).clamp(min=1)


def depth_l1_loss(depth: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the inverse depth (B, h, w): (B,)."""
    return (depth.float() - target).abs().mean((1, 2))


def depth_ssi_loss(depth: Tensor, target: Tensor) -> Tensor:
    """MiDaS's scale-and-shift-invariant error of the inverse depth (B, h, w): (B,).

    Both maps are normalised to median 0 and mean absolute deviation 1. For data whose inverse depth
    is known only up to scale and shift.
    """

    def standardise(x: Tensor) -> Tensor:
        flat = x.float().flatten(1)
        centred = flat - flat.median(1, keepdim=True).values
        return centred / centred.abs().mean(1, keepdim=True).clamp(min=_SMALLEST)

    return (standardise(depth) - standardise(target)).abs().mean(1)


#: The grouping loss compares this many features of two patches. It turns their cosine into a
#: logit: 1 -> +5, 0.5 -> 0, 0 -> -5.
_GROUPING_FEATURES = 64
_COSINE_SCALE, _COSINE_OFFSET = 10.0, 5.0


def grouping_loss(features: Tensor, instances: Tensor, patch: int) -> Tensor:
    """The error of grouping patches by their features: (B,).

    It is low if patches of one object have similar features, and patches of different objects have
    different ones. If all objects of an image are known, it trains the encoder without clicks. (The
    paper's encoder is frozen and does not need it.)

    features: (B, K, C), C >= 64, the image features of the K = gh x gw patches; the first 64 are
    compared. instances: (B, h, w) uint8, 0 = background, which need not be similar to itself. For
    each object it adds the mean logistic loss over pairs of its patches and over pairs of one of
    its patches and any other patch. The latter pairs have focal weights, because most of them are
    easy. All objects of an image have the same weight.
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
    """The share of each patch that each instance covers.

    instances (B, h, w) uint8 -> (B, gh * gw, 1 + highest instance); rows sum to one.
    """
    count = int(instances.max()) + 1
    cells = instances.unflatten(1, (-1, patch)).unflatten(3, (-1, patch))  # (B, gh, p, gw, p)
    cells = cells.transpose(2, 3).flatten(3).flatten(1, 2).long()  # (B, K, p * p)
    shares = torch.zeros(*cells.shape[:2], count, device=instances.device)
    ones = torch.ones(1, 1, 1, device=instances.device).expand(cells.shape)
    return shares.scatter_add_(2, cells, ones) / cells.shape[2]
