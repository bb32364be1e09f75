"""The weights of the attentions are those that the network uses, with and without the bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ois_client.contract.clicks import Prompts
from ois_client.contract.errors import InvalidInput
from ois_network.attention import CrossAttention, TorchAttention
from ois_network.attention_weights import Weights, attention_weights
from ois_network.config import FusionOrder, ImageUpdate
from ois_network.fusion import FusionBlock
from ois_network.network import ImageFeatures, OISNetwork
from support.network_scenes import micro, position_matrices, random_image, random_prompts

ROWS, COLUMNS = 6, 8


@pytest.fixture(scope="module")
def prompts() -> Prompts[Tensor]:
    return random_prompts(ROWS, COLUMNS, [(3, 2), (1, 0)], previous=[True, False])


def features_of(network: OISNetwork) -> ImageFeatures:
    image = random_image(network.config, ROWS, COLUMNS).unsqueeze(0)
    return network.encode(image, *position_matrices(network.config, ROWS, COLUMNS))


def seen(attention: CrossAttention, weights: Weights, value: Tensor) -> Tensor:
    """The output of an attention, from its weights and projected values (N, K, C)."""
    n, keys, channels = value.shape
    heads = value.view(n, keys, attention.heads, -1).transpose(1, 2)
    out = weights.biased @ heads
    return attention.out(out.transpose(1, 2).reshape(n, -1, channels))


@pytest.mark.parametrize("first", list(FusionOrder))
@pytest.mark.parametrize("update", list(ImageUpdate))
def test_weights_times_values_give_the_output_of_each_block(
    prompts: Prompts[Tensor], first: FusionOrder, update: ImageUpdate
) -> None:
    network = micro(fusion_order=first, image_update=update)
    features = features_of(network)
    assert network.fusion is not None
    blocks = network.fusion.block_list()
    calls: list[tuple[Tensor, list[Tensor], Tensor]] = []  # tokens, projected, output

    def record(_block: torch.nn.Module, given: tuple[object, ...], output: Tensor) -> None:
        tokens, projected = given[:2]
        assert isinstance(tokens, Tensor)
        assert isinstance(projected, list)
        calls.append((tokens, projected, output))

    hooks = [block.register_forward_hook(record) for block in blocks]
    network.click(features, prompts)  # with PyTorch's fused attention
    for hook in hooks:
        hook.remove()

    found = attention_weights(network, features, prompts)
    assert len(found) == len(blocks) == len(calls)
    for block, weights, (tokens, projected, output) in zip(blocks, found, calls, strict=True):
        steps = [
            (block.order_attention, block.order_norm, weights.order, projected[1]),
            (block.object_attention, block.object_norm, weights.objects, projected[3]),
        ]
        for attention, norm, one, value in steps if block.order_first else steps[::-1]:
            assert attention is not None
            assert norm is not None
            assert one is not None
            tokens = norm(tokens + seen(attention, one, value))
        tokens = block.ffn_norm(tokens + block.ffn(tokens))
        torch.testing.assert_close(tokens, output, atol=2e-5, rtol=1e-4)


def test_the_rows_are_distributions_over_the_patches(prompts: Prompts[Tensor]) -> None:
    network = micro()
    heads = network.config.fusion_heads
    for block in attention_weights(network, features_of(network), prompts):
        for one in (block.order, block.objects):
            assert one is not None
            for weights in (one.biased, one.unbiased):
                assert weights.shape == (2, heads, 48, ROWS * COLUMNS)
                torch.testing.assert_close(weights.sum(-1), torch.ones(2, heads, 48))


def test_the_bias_is_the_order_map_times_sigma(prompts: Prompts[Tensor]) -> None:
    """Eq. 3: biased = unbiased * exp(-σ M), normalised; so the distance in depth decreases."""
    network = micro(sigma_init=2.0)
    features = features_of(network)
    span = features.depth.amax((1, 2)) - features.depth.amin((1, 2))
    depth = (features.depth.amax((1, 2)) - features.depth) / span
    order, allow = network.attention_biases(depth, prompts)
    assert order is not None
    assert allow is not None
    filled = (prompts.labels >= 0).unsqueeze(1).expand(-1, network.config.fusion_heads, -1)
    for block in attention_weights(network, features, prompts):
        assert block.order is not None
        assert block.sigma is not None
        assert block.objects is not None
        expected = block.order.unbiased * torch.exp(-block.sigma * order)
        expected = expected / expected.sum(-1, keepdim=True)
        torch.testing.assert_close(block.order.biased, expected, atol=1e-6, rtol=1e-4)
        distance = [(w * order).sum(-1)[filled] for w in (block.order.biased, block.order.unbiased)]
        assert (distance[0] < distance[1]).all()
        assert (block.objects.biased[allow < 0] == 0).all()
        assert (block.objects.unbiased > 0).all()


def test_the_network_is_left_as_it_was(prompts: Prompts[Tensor]) -> None:
    network = micro()
    features = features_of(network)
    before = network.click(features, prompts)
    attention_weights(network, features, prompts)
    attentions = [m for m in network.modules() if isinstance(m, CrossAttention)]
    assert all(isinstance(attention.ops, TorchAttention) for attention in attentions)
    assert torch.equal(network.click(features, prompts), before)


def test_removed_attentions_have_no_weights(prompts: Prompts[Tensor]) -> None:
    network = micro(order_attention=False)
    for block in attention_weights(network, features_of(network), prompts):
        assert block.order is None
        assert block.sigma is None
        assert block.objects is not None
    network = micro(sparse=False)
    with pytest.raises(InvalidInput, match="without sparse prompts"):
        attention_weights(network, features_of(network), prompts)


def test_without_its_bias_an_attention_has_one_distribution(prompts: Prompts[Tensor]) -> None:
    network = micro(order=False)
    for block in attention_weights(network, features_of(network), prompts):
        assert block.order is not None
        assert torch.equal(block.order.biased, block.order.unbiased)


def test_blocks_have_weights_of_their_own(prompts: Prompts[Tensor]) -> None:
    network = micro()
    assert network.fusion is not None
    assert len(network.fusion.blocks) == 2
    assert all(isinstance(block, FusionBlock) for block in network.fusion.blocks)
    first, second = attention_weights(network, features_of(network), prompts)
    assert first.order is not None
    assert second.order is not None
    assert not torch.equal(first.order.unbiased, second.order.unbiased)
