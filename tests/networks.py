"""A network small enough to export in seconds, with every branch alive."""

from __future__ import annotations

from ois_network.config import NetworkConfig
from ois_network.initialise import build, randomise
from ois_network.network import OISNetwork

MICRO = NetworkConfig(
    name="micro",
    longest=112,
    embed_dim=32,
    depth=4,
    heads=2,
    out_layers=(0, 1, 2, 3),
    head_features=16,
    head_channels=(8, 12, 16, 24),
    prompt_dim=32,
    fusion_heads=4,
    fusion_blocks=2,
    fusion_ffn=48,
)


def micro(**changes: object) -> OISNetwork:
    """A randomised network: nothing is zero, so nothing can hide."""
    return randomise(build(MICRO.replace(**changes)), seed=1)
