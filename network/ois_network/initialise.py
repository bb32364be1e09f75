"""Initial weights of a network, also from one with other switches, and random weights for tests.

All are deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ois_network.config import NetworkConfig
from ois_network.network import OISNetwork
from ois_network.variants import changed


def build(config: NetworkConfig, seed: int = 0) -> OISNetwork:
    """A new network in eval mode. Its mask head is a copy of its depth head (paper §4.1)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = OISNetwork(config)
        _initialise(network)
    start_mask_head(network)
    return network.eval()


def start_mask_head(network: OISNetwork) -> None:
    """Copy the depth head into the mask head, and set the injections to zero."""
    network.mask_head.load_state_dict(network.depth_head.state_dict())
    for parameter in network.inject.parameters():
        nn.init.zeros_(parameter)


@dataclass(frozen=True, slots=True)
class Alteration:
    """A network with other switches. unused: names of the given weights that it does not have.

    new: names of its tensors that the given weights lack; they have initial values.
    """

    network: OISNetwork
    unused: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line for users."""
        tensors = (("left out", self.unused), ("untrained", self.new))
        counted = (f"{len(names)} tensors {what}" for what, names in tensors if names)
        return ", ".join(counted) or "all weights are used"


def altered(network: OISNetwork, changes: Mapping[str, Any], seed: int = 0) -> Alteration:
    """A network with these changes and otherwise the same weights, in eval mode.

    seed: of the initial values of parts that `network` lacks. Raises `InvalidInput` as `changed`.
    """
    made = build(changed(network.config, changes), seed=seed)
    given, own = network.state_dict(), made.state_dict()
    made.load_state_dict({**own, **{name: given[name] for name in own if name in given}})
    return Alteration(
        made,
        tuple(name for name in given if name not in own),
        tuple(name for name in own if name not in given),
    )


def _initialise(network: OISNetwork) -> None:
    for name, parameter in network.encoder.named_parameters():
        if name in ("pos_embed", "cls_token"):
            nn.init.trunc_normal_(parameter, std=0.02)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    if network.sparse is not None:
        nn.init.normal_(network.sparse.type_embedding)
        nn.init.normal_(network.sparse.empty_embedding)
    # With a positive bias the final ReLU of the depth head has a gradient before training.
    last = network.depth_head.scratch.output_conv2[2]
    if isinstance(last, nn.Conv2d) and last.bias is not None:
        nn.init.constant_(last.bias, 0.5)


#: Scales of normalisations whose names do not say so.
_NECK_NORMS = ("encoder.neck.1.weight", "encoder.neck.3.weight")


def randomise(network: OISNetwork, seed: int = 0) -> OISNetwork:
    """Set every parameter to random values, in place, and return the network in eval mode.

    For parity tests and benchmarks: with the initial zero injection, clicks would not change the
    mask. The scales keep activations near one, so that relative errors are meaningful.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size, std: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * std

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("raw_sigma"):
                parameter.fill_(3.0)
            elif parameter.dim() == 1:
                scale = name.endswith("gamma") or "norm" in name or name in _NECK_NORMS
                parameter.copy_((1.0 if scale and not name.endswith("bias") else 0.0)
                                + normal(parameter.shape, 0.1))  # fmt: skip
            elif name.endswith(("pos_embed", "cls_token")):
                parameter.copy_(normal(parameter.shape, 0.2))
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(normal(parameter.shape, fan_in**-0.5))
        last = network.depth_head.scratch.output_conv2[2]
        if isinstance(last, nn.Conv2d) and last.bias is not None:
            last.bias.fill_(2.0)
    return network.eval()
