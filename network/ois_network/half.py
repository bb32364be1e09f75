"""Half precision for matrix products and convolutions; fp32 for everything else.

Half precision for the whole graph would spoil clicks: in bf16 a coordinate of 443 becomes 444, and
a phase of a few hundred radians becomes noise. So only products run in half precision (every
library accumulates them in fp32). These stay in fp32:

    coordinates, Fourier phases, disks      they describe the clicks
    depth, its min and max, D, M, B         differences of nearly equal depths (Eq. 1, 2)
    LayerNorm and the residual streams      sums over many layers
    the last convolution of both heads      depth and logits are not rounded
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ois_network.network import OISNetwork
from ois_network.split import ClickDecoder, ImageEncoder, PromptPath


def lower_precision(encoder: ImageEncoder, decoder: ClickDecoder, dtype: torch.dtype) -> None:
    """Let both halves of a network multiply in `dtype` (torch.float16 or torch.bfloat16).

    It changes the network in place and cannot be undone, because weights are rounded. Inputs and
    outputs keep their dtypes, except the features and levels of the image state, which become
    `dtype`. Raises `ValueError` if the halves are of different networks, or were lowered before.
    """
    network = encoder.network
    if decoder.network is not network:
        raise ValueError("encoder and decoder are of different networks; pass two halves of one")
    if network.project.weight.dtype is not torch.float32:
        raise ValueError(
            f"the network is already in {network.project.weight.dtype}; load it again to lower it"
        )
    kept = set(_fp32_islands(network))
    for module in (*network.modules(), *decoder.prompt_paths.values()):
        products = isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | PromptPath)
        if not products:
            continue
        into = torch.float32 if module in kept else dtype
        module.to(into).register_forward_pre_hook(_cast_inputs(into))
    # The levels enter six convolutions: cast them once, where they leave the encoder.
    network.encoder.register_forward_hook(
        lambda _module, _inputs, levels: [level.to(dtype) for level in levels]
    )


def _fp32_islands(network: OISNetwork) -> Iterator[nn.Module]:
    for part in (network.dense, network.depth_encoder):
        if part is not None:
            yield from part.modules()
    for head in (network.depth_head, network.mask_head):
        yield head.scratch.output_conv2[-1]


def _cast_inputs(dtype: torch.dtype) -> Callable[[nn.Module, tuple[Tensor, ...]], object]:
    return lambda _module, inputs: tuple(tensor.to(dtype) for tensor in inputs)
