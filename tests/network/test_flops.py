"""Counts of parameters and FLOPs agree with the real network and with published figures."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ois_client.contract.errors import InvalidInput
from ois_network.attention import EquationAttention, set_attention_ops
from ois_network.config import PRESETS, ImageUpdate
from ois_network.flops import STEPS, click_flops, cpu_click_flops, encoder_flops
from ois_network.parameters import count_parameters
from support.network_scenes import (
    SMALL,
    position_matrices,
    random_image,
    random_network,
    random_prompts,
)


@pytest.mark.parametrize(
    ("side", "vit", "head"), [(1022, 1957.5e9, 301.4e9), (518, 303.2e9, 77.6e9)]
)
def test_vitb_costs_what_was_measured(side: int, vit: float, head: float) -> None:
    """The expected FLOPs are those of Depth-Anything-V2's own code with naive attention."""
    counted = {part.name: part.flops for part in encoder_flops(PRESETS["vitb"], side, side)}
    assert counted["ViT"] == pytest.approx(vit, rel=0.01)
    assert counted["one DPT head"] == pytest.approx(head, rel=0.01)


def test_the_unrewritten_row_is_the_networks_own_count() -> None:
    """Counting on the meta device gives the FLOPs of a run with real numbers."""
    network = random_network()
    set_attention_ops(network, EquationAttention())
    image = random_image(SMALL, 5, 7).unsqueeze(0)
    prompts = random_prompts(5, 7, [(2, 1)], previous=[True])
    with FlopCounterMode(display=False) as counter:
        features = network.encode(image, *position_matrices(SMALL, 5, 7))
        encode = counter.get_total_flops()
        network.click(features, prompts)
    row = click_flops(SMALL, 70, 98)[0]
    assert (row.encode_flops, row.click_flops) == (encode, counter.get_total_flops() - encode)


@pytest.mark.parametrize("name", ["tiny", "vits"])
def test_no_rewrite_makes_a_click_more_expensive(name: str) -> None:
    rows = click_flops(PRESETS[name], 252, 448)
    assert len(rows) == 1 + len(STEPS)
    clicks = [row.click_flops for row in rows]
    assert clicks == sorted(clicks, reverse=True)
    assert clicks[-1] < 0.7 * clicks[0]
    assert all(row.state_bytes > 0 for row in rows[1:])


def test_a_click_of_vitb_gets_cheaper_as_the_design_says() -> None:
    """One head takes 301 GF: levels 1 and 2 take 98.7 of it, and moving two 1x1 saves 11.1."""
    naive, laterals, project_first, split, *_, last = click_flops(PRESETS["vitb"], 1022, 1022)
    giga = 1e9
    assert naive.click_flops - laterals.click_flops == pytest.approx(98.7 * giga, rel=0.01)
    assert laterals.click_flops - project_first.click_flops == pytest.approx(11.1 * giga, rel=0.01)
    assert split.click_flops < 190 * giga
    assert last.click_flops < 0.56 * naive.click_flops


def test_few_slots_and_projected_tokens_cost_less_than_cached_keys() -> None:
    *_, plain, cached = click_flops(PRESETS["vitb"], 574, 1022)
    few = cpu_click_flops(PRESETS["vitb"], 574, 1022)
    assert few is not None
    assert few.click_flops < cached.click_flops < plain.click_flops
    assert few.state_bytes == plain.state_bytes
    assert cpu_click_flops(PRESETS["vitb"].replace(sparse=False), 574, 1022) is None


def test_the_key_cache_is_left_out_where_it_is_impossible() -> None:
    rows = click_flops(SMALL.replace(image_update=ImageUpdate.EACH_BLOCK), 70, 98)
    assert not any("R4" in row.name for row in rows)


@pytest.mark.parametrize("size", [(1000, 1022), (0, 14), (7, 7)])
def test_a_size_that_is_not_a_multiple_of_the_patch_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="multiples of the patch size 14"):
        click_flops(SMALL, *size)


def test_parameters_are_those_of_the_network() -> None:
    network = random_network(SMALL.replace(depth_encoder=True))
    report = count_parameters(network.config)
    assert report.total == sum(parameter.numel() for parameter in network.parameters())
    assert report.buffers == network.position.gaussian.numel()
    assert report.parts["depth encoder"] > 0
    assert report.parts["fusion"] == sum(p.numel() for p in network.fusion.parameters())


def test_parameters_of_vitb_are_those_of_depth_anything() -> None:
    report = count_parameters(PRESETS["vitb"])
    assert report.parts["encoder"] + 768 == 86_580_480  # without mask_token
    assert report.parts["depth head"] == report.parts["mask head"] == 10_890_305
    totals = {count.rule: count.parameters for count in report.totals}
    unused = totals["every parameter"] - totals["without the heads' never-used resConfUnit1"]
    assert unused == 2 * 295_168


def test_counting_allocates_nothing() -> None:
    """ViT-L is counted on the meta device, which allocates no memory."""
    assert count_parameters(PRESETS["vitl"]).total > 3e8
    assert torch.get_default_device().type == "cpu"
