"""The last convolution as a dot product is that convolution. Its kernel: `test_parity.py`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ois_network.kernels.dot import DotConvolution, use_dot_products
from support.network_scenes import MICRO, random_network


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_it_is_the_convolution_in_fp32(dtype: torch.dtype, layout: torch.memory_format) -> None:
    draw = torch.Generator().manual_seed(0)
    convolution = nn.Conv2d(32, 1, 1).requires_grad_(False)
    x = torch.randn(3, 32, 11, 14, generator=draw).to(dtype).to(memory_format=layout)
    got = DotConvolution(convolution)(x)
    want = F.conv2d(x.double(), convolution.weight.double(), convolution.bias.double())  # type: ignore[union-attr]
    assert got.dtype is torch.float32
    assert got.shape == (3, 1, 11, 14)
    assert float((got - want).norm() / want.norm()) < 1e-6


def test_both_heads_get_one_and_compute_the_same() -> None:
    network = random_network(MICRO, seed=1)
    heads = (network.depth_head, network.mask_head)
    draw = torch.Generator().manual_seed(0)
    features = MICRO.head_features // 2
    path = torch.randn(2, features, 32, 32, generator=draw)
    with torch.no_grad():
        before = [head.scratch.output_conv2(path) for head in heads]
        names = list(network.state_dict())
        use_dot_products(*heads)
        use_dot_products(*heads)  # changes nothing
        for head, want in zip(heads, before, strict=True):
            torch.testing.assert_close(head.scratch.output_conv2(path), want, atol=1e-5, rtol=1e-5)
    assert list(network.state_dict()) == names


@pytest.mark.parametrize(
    "other", [nn.Conv2d(32, 2, 1), nn.Conv2d(32, 1, 3), nn.Conv2d(32, 1, 1, bias=False)]
)
def test_another_convolution_is_refused(other: nn.Conv2d) -> None:
    with pytest.raises(ValueError, match=r"expected \(1, C, 1, 1\) and a bias"):
        DotConvolution(other)
