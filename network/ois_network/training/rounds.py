"""The loss of one batch: rounds of simulated clicks without gradient, then one with gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ois_client.contract.clicks import Prompts
from ois_network.keep_clicks import keep_clicks
from ois_network.network import OISNetwork
from ois_network.order import coverage_of_logits
from ois_network.training.clicks.sampler import add_click, next_click
from ois_network.training.config import TrainConfig
from ois_network.training.data.batches import Batch
from ois_network.training.forward import EncodedBatch, click_batch, encode_batch
from ois_network.training.losses import (
    click_loss,
    depth_l1_loss,
    depth_ssi_loss,
    grouping_loss,
    normalised_focal_loss,
    soft_iou_loss,
)

#: SegNext looks for errors at the probability 0.49; this is its logit.
_ERROR_LOGIT = float(np.log(0.49 / 0.51))


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of one batch. total: a scalar with a gradient. values: name -> number, to report."""

    total: Tensor
    values: dict[str, float]


def batch_losses(
    network: OISNetwork,
    batch: Batch,
    config: TrainConfig,
    rounds: int,
    rng: np.random.Generator,
    encoded: EncodedBatch | None = None,
    *,
    coarse: bool = False,
) -> Losses:
    """The loss of one batch after `rounds` further simulated clicks per object.

    rng: draws the clicks. encoded: the features of the batch, if a cache has them. coarse: see
    `click_batch`.
    """
    if encoded is None:
        encoded = encode_batch(network, batch.image, batch.pos_rows, batch.pos_cols, coarse=coarse)
    values: dict[str, float] = {}
    total = encoded.depth.new_zeros(())
    if len(batch.owner):
        total = _clicks_loss(network, batch, config, rounds, rng, encoded, values, coarse)
    if config.loss.depth_weight and batch.depth is not None:
        depth_loss = depth_l1_loss if config.loss.depth == "l1" else depth_ssi_loss
        depth = depth_loss(encoded.depth, batch.depth).mean()
        values["depth"] = float(depth.detach())
        total = total + config.loss.depth_weight * depth
    if config.loss.grouping_weight and batch.instances is not None:
        features = network.project(encoded.levels[3].flatten(2).transpose(1, 2))
        grouping = grouping_loss(features, batch.instances, network.config.patch).mean()
        values["grouping"] = float(grouping.detach())
        total = total + config.loss.grouping_weight * grouping
    return Losses(total, values)


def _clicks_loss(
    network: OISNetwork,
    batch: Batch,
    config: TrainConfig,
    rounds: int,
    rng: np.random.Generator,
    encoded: EncodedBatch,
    values: dict[str, float],
    coarse: bool,
) -> Tensor:
    """Mean mask loss over the rounds with a gradient; adds what it measured to `values`."""
    scale = network.config.coverage_scale
    rows, columns = (scale * cells for cells in encoded.levels[3].shape[-2:])
    n = len(batch.owner)
    prompts = Prompts(
        batch.points,
        batch.labels,
        torch.zeros(n, rows, columns, dtype=torch.uint8, device=batch.image.device),
        torch.zeros(n, dtype=torch.bool, device=batch.image.device),
    )
    mask_losses = []
    for number in range(rounds + 1):
        last = number == rounds
        learns = not config.loss.gradient_rounds or rounds - number < config.loss.gradient_rounds
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            seen = encoded if learns else encoded.detach()
            # Not `kept`: the loss should teach the network to follow clicks by itself.
            logits = click_batch(network, seen, batch.owner, prompts, coarse=coarse, kept=False)
            if learns:
                error = mask_loss(logits, batch.target, config)
                if config.loss.click_weight:
                    clicked = click_loss(logits, prompts.points, prompts.labels).mean()
                    error = error + config.loss.click_weight * clicked
                mask_losses.append(error)
        if not last:
            logits = logits.detach()
            if network.config.keep_clicks:
                logits = keep_clicks(logits.float(), prompts.points, prompts.labels)
            prompts = _corrected(prompts, logits, batch.target, config, rng)
    loss = torch.stack(mask_losses).mean()
    found = logits.detach() > 0
    union = (found | batch.target).flatten(1).sum(1).clamp(min=1)
    iou = ((found & batch.target).flatten(1).sum(1) / union).mean()
    values.update(mask=float(loss.detach()), iou=float(iou), rounds=float(rounds))
    return loss


def mask_loss(logits: Tensor, target: Tensor, config: TrainConfig) -> Tensor:
    """The mean loss, a scalar, of logits (N, h, w) against target (N, h, w) bool."""
    loss = normalised_focal_loss(logits, target, alpha=config.loss.alpha, gamma=config.loss.gamma)
    if config.loss.iou_weight:
        loss = loss + config.loss.iou_weight * soft_iou_loss(logits, target)
    return loss.mean()


def _corrected(
    prompts: Prompts[Tensor],
    logits: Tensor,
    target: Tensor,
    config: TrainConfig,
    rng: np.random.Generator,
) -> Prompts[Tensor]:
    """The next round's prompts: one more click on each object, and the mask as the previous one."""
    predicted = (logits > _ERROR_LOGIT).cpu().numpy()
    wanted = target.cpu().numpy()
    points, labels = prompts.points.cpu().numpy().copy(), prompts.labels.cpu().numpy().copy()
    for k in range(len(wanted)):
        click = next_click(wanted[k], predicted[k], rng, config.clicks.stride)
        if click is not None:
            add_click(points[k], labels[k], *click)
    patch = logits.shape[1] // prompts.coverage.shape[1]
    return Prompts(
        points=torch.from_numpy(points).to(logits.device),
        labels=torch.from_numpy(labels).to(logits.device),
        coverage=coverage_of_logits(logits.float(), patch),
        has_previous=torch.ones_like(prompts.has_previous),
    )
