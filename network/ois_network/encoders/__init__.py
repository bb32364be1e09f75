"""Image encoders: pixels -> the four feature levels that the heads and the fusion read.

Every encoder is a module with

    forward(image (B, h, w, 3) uint8, pos_rows (gh, T), pos_cols (gw, T)) -> four levels
    token_multiple: int, to which its tokens are filled up for engines that want aligned lengths

`NetworkConfig.level_channels` and `level_scales` say what its levels are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ois_network.config import EncoderFamily, NetworkConfig
from ois_network.encoders.dinov2 import DINOv2

if TYPE_CHECKING:
    from ois_network.encoders.tinyvit import TinyViT

__all__ = ["DINOv2", "build_encoder"]


def build_encoder(config: NetworkConfig) -> DINOv2 | TinyViT:
    """The encoder of the config's family."""
    if config.encoder is EncoderFamily.DINOV2:
        return DINOv2(config)
    from ois_network.encoders.tinyvit import TinyViT

    return TinyViT()
