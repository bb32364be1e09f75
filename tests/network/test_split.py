"""The two halves are exact: with any rewrite, and with all, they equal the unrewritten network."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from ois_client.contract.clicks import SLOTS, Prompts
from ois_network.config import FusionOrder, ImageUpdate, NetworkConfig
from ois_network.network import ImageFeatures, OISNetwork
from ois_network.order import coverage_of_logits
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites
from ois_runtime.engines.slots import fewer_slots
from support.network_scenes import (
    SMALL,
    objects,
    position_matrices,
    random_image,
    random_network,
    random_prompts,
    relative_error,
)

CONFIGS: dict[str, NetworkConfig] = {
    "default": SMALL,
    "no order": SMALL.replace(order=False),
    "no object": SMALL.replace(object=False),
    "no order, no object": SMALL.replace(order=False, object=False),
    "no sparse": SMALL.replace(sparse=False),
    "no dense": SMALL.replace(dense=False),
    "depth encoder": SMALL.replace(depth_encoder=True),
    "depth encoder, no order": SMALL.replace(depth_encoder=True, order=False),
    "depth encoder with blocks": SMALL.replace(depth_encoder=True, depth_blocks=2),
    "order attention removed": SMALL.replace(order_attention=False),
    "object attention removed": SMALL.replace(object_attention=False),
    "both attentions removed": SMALL.replace(order_attention=False, object_attention=False),
    "empty slots masked": SMALL.replace(mask_empty_slots=True),
    "object first": SMALL.replace(fusion_order=FusionOrder.OBJECT_FIRST),
    "image update each block": SMALL.replace(image_update=ImageUpdate.EACH_BLOCK),
    "level 4": SMALL.replace(fused_levels=(4,)),
    "all levels": SMALL.replace(fused_levels=(1, 2, 3, 4)),
    "levels 1 and 2": SMALL.replace(fused_levels=(1, 2)),
    "previous mask": SMALL.replace(previous_mask=True),
    "previous mask, no dense": SMALL.replace(previous_mask=True, dense=False),
    "half size": SMALL.replace(output_stride=2),
    "half pixel": SMALL.replace(aligned_corners=False),
    "details": SMALL.replace(detail_channels=4),
    "details, half size": SMALL.replace(detail_channels=4, output_stride=2, aligned_corners=False),
    "fine prompts": SMALL.replace(patch=12, longest=120, fine_prompts=True, previous_mask=True),
    "keep clicks": SMALL.replace(keep_clicks=True),
    "fine prompts, no sparse": SMALL.replace(
        patch=12, longest=120, fine_prompts=True, sparse=False
    ),
}
REWRITES: dict[str, Rewrites] = {
    "none": Rewrites.none(),
    **{f.name: replace(Rewrites.none(), **{f.name: True}) for f in fields(Rewrites)},
    "default": Rewrites(),
    "all": Rewrites(cached_kv=True),
    "of few tokens": Rewrites(few_slots=True, project_tokens=True),
    "of few tokens, cached": Rewrites(cached_kv=True, few_slots=True, project_tokens=True),
}
#: Odd and even rows, portrait and landscape, one object and three, full and empty slots.
SCENES: dict[str, tuple[int, int, list[tuple[int, int]], list[bool]]] = {
    "5x7, first click": (5, 7, [(1, 0)], [False]),
    "6x3, full slots": (6, 3, [(24, 24)], [True]),
    "7x6, three objects": (7, 6, [(7, 7), (1, 2), (0, 3)], [True, False, True]),
    "1x2, smaller than a level": (1, 2, [(3, 1)], [True]),
}


@cache
def network_of(name: str) -> OISNetwork:
    return random_network(CONFIGS[name])


@cache
def scene_of(
    name: str, scene: str
) -> tuple[tuple[Tensor, Tensor, Tensor], ImageFeatures, Prompts[Tensor], Tensor]:
    """Image inputs, features, prompts, and the unrewritten network's logits."""
    rows, columns, counts, previous = SCENES[scene]
    network, config = network_of(name), CONFIGS[name]
    image = (random_image(config, rows, columns), *position_matrices(config, rows, columns))
    prompts = random_prompts(rows, columns, counts, previous=previous, config=config)
    features = network.encode(image[0].unsqueeze(0), *image[1:])
    return image, features, prompts, network.click(features, prompts)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_rewritten_network_is_the_network(name: str, rewrite: str, scene: str) -> None:
    network, rewrites = network_of(name), REWRITES[rewrite]
    image, features, prompts, expected = scene_of(name, scene)
    state = ImageEncoder(network, rewrites)(*image)
    assert all(tensor.shape[0] == 1 or name == "keys_values" for name, tensor in state.items())
    assert relative_error(state["depth"], features.depth) <= 1e-5
    logits, coverage = ClickDecoder(network, rewrites)(state, *prompts)
    cell = network.config.patch // network.config.coverage_scale
    assert float(expected.std()) > 0.01, "a flat map would agree with anything"
    assert relative_error(logits, expected) <= 1e-5
    assert torch.equal(coverage, coverage_of_logits(logits, cell))


@pytest.mark.parametrize("scene", ["5x7, first click", "7x6, three objects"])
@pytest.mark.parametrize(
    "name", ["default", "image update each block", "fine prompts", "keep clicks"]
)
def test_few_slots_stand_for_all(name: str, scene: str) -> None:
    network, rewrites = network_of(name), REWRITES["of few tokens"]
    image, _, prompts, expected = scene_of(name, scene)
    state = ImageEncoder(network, rewrites)(*image)
    points, labels = fewer_slots(prompts.points.numpy(), prompts.labels.numpy())
    few = replace(prompts, points=torch.from_numpy(points), labels=torch.from_numpy(labels))
    assert few.labels.shape[1] < prompts.labels.shape[1]
    logits, _ = ClickDecoder(network, rewrites)(state, *few)
    assert relative_error(logits, expected) <= 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_clicks_reach_the_logits(name: str) -> None:
    """Otherwise the test above would not test the prompt path."""
    network = network_of(name)
    _, features, prompts, expected = scene_of(name, "5x7, first click")
    moved = prompts.points + torch.tensor([20.0, 11.0])
    got = network.click(features, replace(prompts, points=moved))
    assert relative_error(got, expected) > 1e-3


@pytest.mark.parametrize("rewrite", ["none", "default", "all"])
def test_objects_together_are_objects_one_by_one(rewrite: str) -> None:
    network = network_of("default")
    image, features, prompts, expected = scene_of("default", "7x6, three objects")
    state = ImageEncoder(network, REWRITES[rewrite])(*image)
    decoder = ClickDecoder(network, REWRITES[rewrite])
    together, coverage = decoder(state, *prompts)
    for row in range(3):
        alone = objects(prompts, row)
        logits, cover = decoder(state, *alone)
        torch.testing.assert_close(together[row : row + 1], logits, rtol=1e-5, atol=1e-5)
        assert torch.equal(coverage[row : row + 1], cover)
        unrewritten = network.click(features, alone)
        torch.testing.assert_close(expected[row : row + 1], unrewritten, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rewrite", ["none", "default", "all"])
def test_identical_objects_get_identical_masks(rewrite: str) -> None:
    network = network_of("default")
    image, _, prompts, _ = scene_of("default", "7x6, three objects")
    state = ImageEncoder(network, REWRITES[rewrite])(*image)
    logits, _ = ClickDecoder(network, REWRITES[rewrite])(state, *objects(prompts, 0, 0, 0))
    for row in (1, 2):
        torch.testing.assert_close(logits[row], logits[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize(
    "name", ["default", "no sparse", "no dense", "previous mask", "fine prompts"]
)
def test_what_empty_slots_hold_does_not_matter(name: str, rewrite: str) -> None:
    network = network_of(name)
    image, _, prompts, _ = scene_of(name, "7x6, three objects")
    state = ImageEncoder(network, REWRITES[rewrite])(*image)
    decoder = ClickDecoder(network, REWRITES[rewrite])
    expected, _ = decoder(state, *prompts)
    rubbish = torch.empty(3, SLOTS, 2).uniform_(-500, 500, generator=torch.Generator())
    points = torch.where(prompts.labels.unsqueeze(2) < 0, rubbish, prompts.points)
    got, _ = decoder(state, *replace(prompts, points=points))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["default", "fine prompts"])
def test_the_previous_mask_matters_only_where_there_is_one(name: str) -> None:
    network = network_of(name)
    _, features, prompts, expected = scene_of(name, "7x6, three objects")
    got = network.click(features, replace(prompts, coverage=255 - prompts.coverage))
    assert torch.equal(got[1], expected[1])  # has_previous is False
    assert relative_error(got[0], expected[0]) > 1e-4


@pytest.mark.parametrize("rewrite", ["none", "default", "all"])
def test_masking_empty_slots_changes_masks_after_the_first_click(rewrite: str) -> None:
    """The weights are the same, so only the choice differs."""
    network, other = network_of("default"), network_of("empty slots masked")
    image, _, prompts, expected = scene_of("default", "7x6, three objects")
    state = ImageEncoder(network, REWRITES[rewrite])(*image)
    got, _ = ClickDecoder(other, REWRITES[rewrite])(state, *prompts)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-5)  # no previous mask
    assert relative_error(got[0], expected[0]) > 1e-4


def test_a_click_leaves_the_image_state_as_it_was() -> None:
    network = network_of("default")
    image, _, prompts, _ = scene_of("default", "7x6, three objects")
    state = ImageEncoder(network, REWRITES["all"])(*image)
    before = {name: tensor.clone() for name, tensor in state.items()}
    ClickDecoder(network, REWRITES["all"])(state, *prompts)
    assert all(torch.equal(state[name], before[name]) for name in before)
