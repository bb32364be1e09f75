"""Image encoders: pixels -> the four feature levels that the heads and the fusion read."""

from ois_network.encoders.dinov2 import DINOv2

__all__ = ["DINOv2"]
