"""Half precision where the network bears it, fp32 where it does not.

Whole-graph half precision ruins clicks: in bfloat16 a coordinate of 443 becomes 444, a phase of a
few hundred radians becomes noise. So only products run in half precision (accumulated in fp32
by every library), and around them stay in fp32:

    coordinates, Fourier phases, disks      what a click is
    depth, its min and max, D, M, B         differences of nearly equal depths (Eq. 1, 2)
    LayerNorm and the residual streams      sums over many layers
    the last convolution of both heads      depth and logits come out unrounded
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ois_network.network import OISNetwork
from ois_network.split import ClickDecoder, ImageEncoder, PromptPath


def lower_precision(encoder: ImageEncoder, decoder: ClickDecoder, dtype: torch.dtype) -> None:
    """Make both halves of one network multiply in `dtype` (torch.float16 or torch.bfloat16).

    In place, and not undone: the weights are rounded. Inputs and outputs keep their types, but
    for the image state's features and levels, which become `dtype` (half the memory). Raises
    `ValueError` when the two are not halves of one network, or it was lowered before.
    """
    network = encoder.network
    if decoder.network is not network:
        raise ValueError("encoder and decoder are not of one network")
    if network.project.weight.dtype is not torch.float32:
        raise ValueError(f"the network is in {network.project.weight.dtype} already")
    kept = set(_fp32_islands(network))
    for module in (*network.modules(), *decoder.prompt_paths.values()):
        products = isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | PromptPath)
        if not products:
            continue
        into = torch.float32 if module in kept else dtype
        module.to(into).register_forward_pre_hook(_cast_inputs(into))
    # The levels leave the encoder once and enter six convolutions: cast once.
    network.encoder.norm.register_forward_hook(lambda _module, _inputs, output: output.to(dtype))


def _fp32_islands(network: OISNetwork) -> Iterator[nn.Module]:
    for part in (network.dense, network.depth_encoder):
        if part is not None:
            yield from part.modules()
    for head in (network.depth_head, network.mask_head):
        yield head.scratch.output_conv2[-1]


def _cast_inputs(dtype: torch.dtype) -> Callable[[nn.Module, tuple[Tensor, ...]], object]:
    return lambda _module, inputs: tuple(tensor.to(dtype) for tensor in inputs)
