"""A network small enough to export in seconds, with every branch alive."""

from __future__ import annotations

from network_scenes import SMALL, random_network
from ois_network.network import OISNetwork

MICRO = SMALL.replace(name="micro", longest=112, position_table=37)


def micro(**changes: object) -> OISNetwork:
    """A randomised network: nothing is zero, so nothing can hide."""
    return random_network(MICRO.replace(**changes), seed=1)
