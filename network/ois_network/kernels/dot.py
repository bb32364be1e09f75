"""The last convolution of a DPT head, 32 channels to 1, as a dot product per pixel.

It reads the largest tensor of a click. As a convolution it runs in fp32, on a copy of its input in
fp32: five times the memory traffic of a dot product that reads half precision once. Results and
weights are those of the convolution: fp32, summed in another order.

    GPU                     one kernel of ours (`language.dot_channels`), if Triton is installed
    inside torch.compile    multiply and sum, which the compiler fuses with what comes before
    otherwise               a product of a matrix and a vector
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ois_network.dpt import DPTHead

_PIXELS = 128  # of one program; 32 numbers per thread with 32 channels


class DotConvolution(nn.Module):
    """Replaces a `Conv2d` to one channel, of 1 x 1. weight, bias: the convolution's."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Raises `ValueError` for any other convolution."""
        super().__init__()
        shape = tuple(convolution.weight.shape)
        if shape[0] != 1 or shape[2:] != (1, 1) or convolution.bias is None:
            raise ValueError(
                f"got a convolution with weights {shape}; expected (1, C, 1, 1) and a bias"
            )
        self.weight, self.bias = convolution.weight, convolution.bias
        channels = shape[1]
        self._kernel_fits = channels & (channels - 1) == 0 and find_spec("triton") is not None

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, h, w) of any floating dtype -> (N, 1, h, w) float32."""
        if torch.compiler.is_compiling():
            products = x.float() * self.weight.float()
            return products.sum(1, keepdim=True) + self.bias.float()
        pixels = x.permute(0, 2, 3, 1)  # (N, h, w, C), contiguous if x is channels-last
        if x.is_cuda and self._kernel_fits and pixels.is_contiguous():
            return dot_channels(pixels, self.weight, self.bias).unsqueeze(1)
        dots = pixels.float() @ self.weight.float().view(-1)
        return (dots + self.bias.float()).unsqueeze(1)


def dot_channels(pixels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The kernel: contiguous pixels (N, h, w, C) -> (N, h, w) float32. C is a power of two.

    weight (1, C, 1, 1) and bias (1) are float32.
    """
    from ois_network.kernels import language  # imports Triton

    channels = pixels.shape[-1]
    out = pixels.new_empty(pixels.shape[:-1], dtype=torch.float32)
    count = out.numel()
    language.dot_channels[(-(-count // _PIXELS),)](
        pixels, weight, bias, out, count, CHANNELS=channels, BLOCK=_PIXELS
    )
    return out


def use_dot_products(*heads: DPTHead) -> None:
    """Replace the last convolution of each head, in place.

    Call it after `lower_precision`, which leaves that convolution in fp32 and copies its input.
    """
    for head in heads:
        last = head.scratch.output_conv2[-1]
        if isinstance(last, nn.Conv2d):
            head.scratch.output_conv2[-1] = DotConvolution(last)
