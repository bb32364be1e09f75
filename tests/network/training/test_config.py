"""Recipes: the shipped ones load, files can be written and read, and errors name the mistake."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ois_client.contract.errors import CheckpointError, InvalidInput
from ois_network.config import PRESETS
from ois_network.training.config import OptimiserConfig, Stage, TrainConfig, load_recipe
from ois_network.training.optimise import learning_rate


@pytest.mark.parametrize("name", ["ablation", "paper", "tiny"])
def test_shipped_recipes_load_and_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.network in PRESETS
    assert TrainConfig.from_dict(recipe.to_dict()) == recipe


def test_the_paper_recipe_is_the_papers() -> None:
    recipe = load_recipe("paper")
    assert recipe.frozen == ("encoder", "depth_head")
    assert recipe.optimiser.kind == "adam"
    assert [stage.epochs for stage in recipe.stages] == [15]
    assert recipe.stages[0].longest == 1022
    assert recipe.stages[0].images * recipe.accumulate * 2 == 12  # SegNext on HQSeg44K
    optimiser = recipe.optimiser
    assert (optimiser.lr, optimiser.betas, optimiser.eps) == (5e-5, (0.9, 0.999), 1e-8)
    assert (optimiser.weight_decay, optimiser.factor) == (0.0, 0.1)
    assert (optimiser.schedule, optimiser.milestones) == ("steps", (0.5, 0.9))
    clicks = recipe.clicks
    assert (clicks.most, clicks.gamma, clicks.rounds) == (24, 0.80, 3)
    assert (clicks.erode, clicks.erode_share, clicks.border_reach) == (3, 0.9, 0.1)
    assert (clicks.background, clicks.other, clicks.border) == (0.1, 0.4, 0.5)
    assert (clicks.single_share, clicks.stride) == (0.0, 1)
    assert (recipe.loss.alpha, recipe.loss.gamma) == (0.5, 2.0)
    assert recipe.loss.gradient_rounds == 1
    assert (recipe.loss.iou_weight, recipe.loss.depth_weight, recipe.ema) == (0.0, 0.0, 0.0)
    augment = recipe.augment
    assert (augment.scale, augment.shift, augment.rotate) == ((0.75, 1.40), 0.03, 3.0)
    assert (augment.brightness, augment.contrast) == (0.25, (-0.15, 0.40))
    assert augment.rgb_shift == 10.0
    assert (augment.on, augment.flip, augment.rotate90) == (True, True, True)
    shares = {augment.shift_rotate_share, augment.brightness_contrast_share}
    assert shares | {augment.rgb_shift_share} == {0.75}
    assert recipe == TrainConfig(accumulate=6)  # everything else is the documented default


def test_a_file_is_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'network = "vits"\n[[stages]]\nlongest = 518\nsteps = 10\n[optimiser]\nlr = 1e-4\n'
    )
    recipe = load_recipe(path)
    assert recipe.stages == (Stage(longest=518, steps=10),)
    assert recipe.optimiser == OptimiserConfig(lr=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("netwrk = 'tiny'", "netwrk"),
        ("[optimiser]\nrate = 1", r"optimiser\.rate"),
        ("[optimiser]\nlr = 'fast'", r"optimiser\.lr is 'fast'"),
        ("[optimiser]\nkind = 'sgd'", "'sgd'"),
        ("bf16 = 1", "bf16"),
        ("frozen = ['encodr']", "encodr"),
        ("stages = []", "0 stages"),
        ("[[stages]]\nsteps = 1\nepochs = 1", "either steps or epochs"),
        ("[[stages]]\nsteps = 1\nobjects = 0", "learns from these losses alone"),
        ("[[stages]]\nsteps = 1\nobjects = -1", "objects >= 0"),
        ("[clicks]\nmost = 30", "clicks.most=30"),
        ("clicks = 3", "expected a table"),
        ("network_changes = 3", "expected a table"),
        ("[network_changes]\nembed_dim = 3", "'embed_dim', which would change encoder or heads"),
        ("[network_changes]\nordr = false", "'ordr', which does not exist"),
        ("[network_changes]\nsparse = 'no'", "'sparse' is 'no': expected true or false"),
        ("[network_changes]\nsparse = false\ndense = false", "sparse and dense are both off"),
        ("not toml", "not TOML"),
    ],
)
def test_a_wrong_recipe_names_the_mistake(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        load_recipe(path)


def test_a_recipe_can_change_switches_of_the_network(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('network = "tiny"\n[network_changes]\norder_attention = false\n')
    recipe = load_recipe(path)
    assert recipe.shape() == PRESETS["tiny"].replace(order_attention=False)
    assert TrainConfig.from_dict(recipe.to_dict()) == recipe
    whole = recipe.replace(network_changes={})
    assert recipe.differences(whole) == ["network_changes.order_attention: False, None"]


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('network = "vitx"')
    with pytest.raises(CheckpointError, match="vitx"):
        load_recipe(path)


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    names = "ablation, paper, photo, photo-ablation, tiny, tiny-ablation"
    with pytest.raises(InvalidInput, match=names):
        load_recipe("huge")


def test_the_step_schedule_falls_at_its_milestones() -> None:
    config = OptimiserConfig(lr=1.0)
    rates = [learning_rate(config, step, 100) for step in (0, 49, 50, 89, 90, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_cosine_schedule_warms_up_and_ends_low() -> None:
    config = OptimiserConfig(lr=1.0, schedule="cosine", warmup=10, last_lr=0.02)
    rates = [learning_rate(config, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[10]) == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.51)
    assert rates[110] == pytest.approx(0.02)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
