"""Details of the image for the mask head's last convolutions (*ours*).

The finest level of an encoder has stride 4 (TinyViT) or 14 (DINOv2), and its features describe what
is there, not where exactly its outline runs. Three convolutions on the pixels themselves, once per
image, say where brightness and colour change. On a click, one residual unit shows them to the map
that `output_conv2` reads. Before training it changes nothing.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ois_network.config import NetworkConfig

#: Channels of the two layers before the last.
_HIDDEN = (32, 16)


class Detail(nn.Module):
    """Pixels -> a map of details; a map of details and the mask head's path -> the refined path."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels, path = config.detail_channels, config.head_features // 2
        first, second = _HIDDEN
        self.pixels = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=config.output_stride, padding=1),
            nn.GELU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(second, channels, 3, padding=1),
        )
        self.expand = nn.Conv2d(channels, path, 3, padding=1, bias=False)
        self.refine = nn.Conv2d(path, path, 3, padding=1)
        nn.init.zeros_(self.refine.weight)
        if self.refine.bias is not None:
            nn.init.zeros_(self.refine.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, h, w), normalised -> (B, `detail_channels`, h / s, w / s).

        s is the config's `output_stride`.
        """
        return self.pixels(pixels)

    def merge(self, path: Tensor, detail: Tensor) -> Tensor:
        """path (N, f/2, h / s, w / s), detail (N or 1, d, h / s, w / s) -> as path."""
        # The operand with N rows comes first, see `split.ClickDecoder._level`.
        return self.refine(F.relu(path + self.expand(detail))) + path
