"""What every encoder has: the normalisation of pixels, and what engines may ask of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Mean and standard deviation of ImageNet, RGB in 0..255.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


class PixelEncoder(nn.Module):
    """A base class: subclasses add the layers and `forward`, see the package's docstring."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        #: The number of tokens is padded to a multiple of this and the padding masked, for
        #: engines whose kernels need aligned lengths. 1: no padding. Windows need none.
        self.token_multiple = 1
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def normalised(self, image: Tensor) -> Tensor:
        """image (B, h, w, 3) uint8 RGB -> (B, 3, h, w), zero mean and unit variance."""
        return (image.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std
