"""The number of parameters of a network and its parts, to compare with the paper's 107.88 M.

The paper (Table 3) does not say how it counts: its encoder and two complete heads alone have
108.36 M. So there are several counts, each with its rule. Networks are built on the meta device,
which allocates no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ois_network.config import NetworkConfig
from ois_network.network import OISNetwork

PAPER_VITB = 107_880_000  # Table 3, OIS with ViT-B

#: Part -> the prefixes of its parameters' names.
PARTS: dict[str, tuple[str, ...]] = {
    "encoder": ("encoder.",),
    "depth head": ("depth_head.",),
    "mask head": ("mask_head.",),
    "image projection": ("project.",),
    "sparse prompts": ("sparse.",),
    "dense prompts": ("dense.",),
    "previous mask": ("previous_mask.",),
    "fine prompts": ("fine_prompts.",),
    "details": ("detail.",),
    "fusion": ("fusion.",),
    "depth encoder": ("depth_encoder.",),
    "injection": ("inject.",),
}
_UNUSED = ".scratch.refinenet4.resConfUnit1."  # in Depth-Anything-V2, but never run


@dataclass(frozen=True, slots=True)
class Count:
    """A number of parameters, and the rule by which it was counted."""

    rule: str
    parameters: int


@dataclass(frozen=True, slots=True)
class ParameterReport:
    """parts: name -> parameters, without absent parts. totals: of the network, by several rules.

    buffers: constants that are stored with the parameters; only one of the totals includes them.
    """

    config: NetworkConfig
    parts: dict[str, int]
    buffers: int
    totals: tuple[Count, ...]

    @property
    def total(self) -> int:
        """All parameters, without buffers."""
        return sum(self.parts.values())


def meta_network(config: NetworkConfig) -> OISNetwork:
    """A network on the meta device: shapes without values."""
    with torch.device("meta"):
        return OISNetwork(config)


def state_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in the state dict of a network."""
    return {name: tuple(t.shape) for name, t in meta_network(config).state_dict().items()}


def count_parameters(config: NetworkConfig) -> ParameterReport:
    """Count the parameters of a network of `config`, without allocating it."""
    network = meta_network(config)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    parts = {
        part: count
        for part, prefixes in PARTS.items()
        if (count := sum(n for name, n in sizes.items() if name.startswith(prefixes)))
    }
    buffers = sum(t.numel() for t in network.state_dict().values()) - sum(sizes.values())
    total = sum(sizes.values())
    unused = sum(n for name, n in sizes.items() if _UNUSED in name)
    frozen = parts["encoder"] + parts["depth head"]
    totals = (
        Count("every parameter", total),
        Count("without the heads' never-used resConfUnit1", total - unused),
        Count("with DINOv2's mask_token, which we drop", total + config.embed_dim),
        Count("with the fixed Fourier matrix (a buffer)", total + buffers),
        Count("without the depth head", total - parts["depth head"]),
        Count("trained: without encoder and depth head", total - frozen),
    )
    return ParameterReport(config, parts, buffers, totals)
