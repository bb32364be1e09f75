"""Padding does not change results: it is masked for every value of σ."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ois_export.graphs.attention import PlainAttention
from ois_export.graphs.padding import PaddedFusion, padded
from ois_export.targets import GraphForm
from ois_network.attention import fill_up, set_attention_ops
from ois_network.fusion import Fusion
from support.network_scenes import SMALL, micro


class Recording(PlainAttention):
    """Records the biases that are added to the logits."""

    def __init__(self) -> None:
        self.biases: list[Tensor] = []

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None
    ) -> Tensor:
        if bias is not None:
            self.biases.append(bias.clamp(min=self.masked_logit))
        return super().attend(query, key, value, heads, bias)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 16), st.floats(-3, 3))
def test_fill_up_appends_up_to_the_next_multiple(length: int, multiple: int, value: float) -> None:
    x = torch.arange(2.0 * length).view(2, length)
    longer = fill_up(x, 1, multiple, value)
    assert longer.shape[1] % multiple == 0
    assert 0 <= longer.shape[1] - length < multiple
    assert torch.equal(longer[:, :length], x)
    assert (longer[:, length:] == value).all()


@pytest.mark.parametrize("sigmas", [(4.0, 4.0), (64.0, 1e-6), (1e-12, 64.0)])
@pytest.mark.parametrize("length", [1, 8, 13])
def test_a_padded_fusion_computes_the_same(sigmas: tuple[float, ...], length: int) -> None:
    torch.manual_seed(0)
    fusion = Fusion(SMALL).eval().requires_grad_(False)
    for block, sigma in zip(fusion.block_list(), sigmas, strict=True):
        block.raw_sigma.fill_(math.log(math.expm1(sigma)))
    dim, n = SMALL.prompt_dim, 2
    tokens, features = torch.randn(n, 48, dim), torch.randn(n, length, dim)
    position, order = torch.randn(1, length, dim), torch.rand(n, 1, 48, length)
    allow = torch.where(torch.rand(n, 1, 48, length) < 0.5, fusion.masked_logit, 0.0)
    allow[..., 0] = 0
    expected = fusion(tokens, features, position, order, allow)
    ops = Recording()
    set_attention_ops(fusion, ops)
    got = PaddedFusion(fusion, 8)(tokens, features, position, order, allow)
    assert got.shape == features.shape
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert {bias.shape[-1] % 8 for bias in ops.biases} == {0}
    for bias in ops.biases:
        assert torch.isfinite(bias.half()).all()
        assert (bias[..., length:] < -9e3).all()
    got = PaddedFusion(fusion, 8)(tokens, features, position, None, None)
    torch.testing.assert_close(
        got, fusion(tokens, features, position, None, None), rtol=1e-5, atol=1e-5
    )


def test_padding_ends_with_its_block() -> None:
    network = micro()
    fusion = network.fusion

    def fail() -> None:
        with padded(network, GraphForm(23, 8, 8)):
            assert isinstance(network.fusion, PaddedFusion)
            assert network.encoder.token_multiple == 8
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert network.fusion is fusion
    assert network.encoder.token_multiple == 1


def test_padded_tokens_do_not_change_the_features() -> None:
    network = micro()
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 42, 70, 3), generator=generator, dtype=torch.uint8)
    rows, columns = torch.randn(3, 37), torch.randn(5, 37)
    expected = network.encoder(image, rows, columns)
    with padded(network, GraphForm(23, token_multiple=8)):
        got = network.encoder(image, rows, columns)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
