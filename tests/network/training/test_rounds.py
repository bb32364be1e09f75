"""Simulated clicks: rounds without gradient, with clicks where the mask is wrong; then one with."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ois_client.contract.clicks import EMPTY, NEGATIVE, POSITIVE, Prompts
from ois_network.initialise import build
from ois_network.order import coverage_of_logits
from ois_network.training import rounds as module
from ois_network.training.clicks.sampler import ClickConfig
from ois_network.training.config import LossConfig, Stage, TrainConfig
from ois_network.training.data.batches import Batch, BatchPlan
from ois_network.training.data.sources import SceneSource
from ois_network.training.rounds import batch_losses
from support.network_scenes import MICRO
from support.training_runs import RECIPE, metrics, run

ROUNDS = 2
CONFIG = RECIPE.replace(
    stages=(Stage(longest=56, images=2, objects=2, steps=1),), loss=LossConfig(),
    clicks=ClickConfig(single_share=1.0),
)  # fmt: skip


def a_batch(config: TrainConfig = CONFIG) -> Batch:
    return BatchPlan(SceneSource(MICRO, config), MICRO, config, [(0, config.stages[0])])[0]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The prompts and the logits of each round."""
    seen: list[dict[str, Any]] = []
    real = module.click_batch

    def watched(
        network: Any, encoded: Any, owner: Tensor, prompts: Prompts[Tensor], **more: Any
    ) -> Tensor:
        logits = real(network, encoded, owner, prompts, **more)
        given = prompts.map(torch.Tensor.clone)
        seen.append({"prompts": given, "logits": logits, "gradient": torch.is_grad_enabled()})
        return logits

    monkeypatch.setattr(module, "click_batch", watched)
    return seen


def test_only_the_last_round_has_a_gradient(calls: list[dict[str, Any]]) -> None:
    network, batch = build(MICRO, seed=1), a_batch()
    losses = batch_losses(network, batch, CONFIG, ROUNDS, np.random.default_rng(0))
    assert [call["gradient"] for call in calls] == [False] * ROUNDS + [True]
    losses.total.backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

    last = calls[ROUNDS]
    again = build(MICRO, seed=1)
    encoded = module.encode_batch(again, batch.image, batch.pos_rows, batch.pos_cols)
    logits = module.click_batch(again, encoded, batch.owner, last["prompts"])
    module.mask_loss(logits, batch.target, CONFIG).backward()
    for name, parameter in again.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_every_round_counts_where_the_recipe_says_so(calls: list[dict[str, Any]]) -> None:
    config = CONFIG.replace(loss=LossConfig(gradient_rounds=0))
    batch = a_batch()
    losses = batch_losses(build(MICRO, seed=1), batch, config, ROUNDS, np.random.default_rng(0))
    assert [call["gradient"] for call in calls] == [True] * (ROUNDS + 1)
    each = [module.mask_loss(call["logits"], batch.target, config) for call in calls]
    torch.testing.assert_close(losses.total, torch.stack(each).mean())


def test_each_round_adds_a_click_and_feeds_the_mask_back(calls: list[dict[str, Any]]) -> None:
    batch = a_batch()
    batch_losses(build(MICRO, seed=1), batch, CONFIG, ROUNDS, np.random.default_rng(0))
    assert not calls[0]["prompts"].has_previous.any()
    for before, after in itertools.pairwise(calls):
        assert after["prompts"].has_previous.all()
        expected = coverage_of_logits(before["logits"].detach(), MICRO.patch)
        assert torch.equal(after["prompts"].coverage, expected)
        wrong = (before["logits"] > np.log(0.49 / 0.51)) != batch.target
        for k in range(len(batch.owner)):
            new = (before["prompts"].labels[k] == EMPTY) & (after["prompts"].labels[k] != EMPTY)
            assert int(new.sum()) == 1
            x, y = after["prompts"].points[k][new][0].long().tolist()
            assert wrong[k, y, x]


@pytest.mark.parametrize(("probability", "label"), [(0.495, NEGATIVE), (0.485, POSITIVE)])
def test_errors_are_looked_for_at_a_probability_of_049(
    monkeypatch: pytest.MonkeyPatch, probability: float, label: int
) -> None:
    """SegNext's threshold: with a probability of 0.495, every pixel counts as object."""
    batch = a_batch()
    seen: list[Tensor] = []
    logits = torch.full(batch.target.shape, float(np.log(probability / (1 - probability))))

    def constant(
        _network: Any, _encoded: Any, _owner: Tensor, prompts: Prompts[Tensor], **_more: Any
    ) -> Tensor:
        seen.append(prompts.labels.clone())
        return logits.clone().requires_grad_()

    monkeypatch.setattr(module, "click_batch", constant)
    batch_losses(build(MICRO, seed=1), batch, CONFIG, 1, np.random.default_rng(0))
    new = (seen[0] == EMPTY) & (seen[1] != EMPTY)
    assert set(seen[1][new].tolist()) == {label}


def test_a_run_draws_zero_to_three_rounds(tmp_path: Path) -> None:
    config = RECIPE.replace(
        stages=(Stage(longest=56, images=1, objects=1, steps=24, coarse=True),),
        clicks=ClickConfig(rounds=3, stride=2),
    )
    run(tmp_path, config)
    assert {record["rounds"] for record in metrics(tmp_path)} == {0, 1, 2, 3}
