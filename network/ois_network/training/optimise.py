"""Optimiser, learning-rate schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ois_network.network import OISNetwork
from ois_network.training.config import OptimiserConfig, TrainConfig


def freeze(network: OISNetwork, config: TrainConfig) -> None:
    """Switch off the gradients of the parts that the recipe freezes."""
    for name in config.frozen:
        part = getattr(network, name)
        if part is not None:
            part.requires_grad_(False)
    # Depth-Anything-V2 has this unit, but the DPT head does not use it.
    for head in (network.depth_head, network.mask_head):
        head.refinenet(4).resConfUnit1.requires_grad_(False)


def build_optimisers(network: OISNetwork, config: OptimiserConfig) -> list[torch.optim.Optimizer]:
    """Adam or AdamW. With `muon`, Muon trains the matrices of attention and MLP."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    matrices = []
    if config.kind == "muon":
        matrices = [p for name, p in named if p.dim() == 2 and _is_hidden(name)]
    chosen = {id(p) for p in matrices}
    decayed = [p for _, p in named if p.dim() > 1 and id(p) not in chosen]
    plain = [p for _, p in named if p.dim() <= 1 and id(p) not in chosen]
    kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
    optimisers: list[torch.optim.Optimizer] = [
        kind(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
        )
    ]
    if matrices:
        optimisers.append(
            torch.optim.Muon(
                matrices,
                lr=config.lr,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimisers


def _is_hidden(name: str) -> bool:
    return ".blocks." in name or name.startswith(("fusion.", "project."))


def learning_rate(config: OptimiserConfig, step: int, total: int) -> float:
    """The learning rate of step `step` of `total`; the first step is 0."""
    share = step / max(total, 1)
    if config.schedule == "steps":
        rate = config.lr * config.factor ** sum(share >= mark for mark in config.milestones)
    else:
        after = max(step - config.warmup, 0) / max(total - config.warmup, 1)
        floor = config.last_lr
        rate = config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(after, 1.0))))
    return rate * min(1.0, (step + 1) / config.warmup) if config.warmup else rate


def set_learning_rate(optimisers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of all parameters."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate


class Average:
    """Exponential moving average of the weights, with a smaller decay in the first steps."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in network.state_dict().items()
        }

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights after `step` steps."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        state = network.state_dict()
        floating = [name for name, value in self.weights.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.weights[name] for name in floating],
            [state[name].detach() for name in floating],
            weight,
        )
