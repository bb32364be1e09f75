"""A training run learns, in one process or several, and reports its progress."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ois_client.contract.errors import CheckpointError, InvalidInput
from ois_network.checkpoints.checkpoint import load_checkpoint
from ois_network.initialise import build
from ois_network.network import OISNetwork
from ois_network.training.config import (
    LossConfig,
    OptimiserConfig,
    Stage,
    plan_stages,
)
from ois_network.training.data.batches import Batch, BatchPlan
from ois_network.training.data.sources import SceneSource
from ois_network.training.forward import EncodedBatch, encode_batch
from ois_network.training.losses import grouping_loss
from ois_network.training.optimise import build_optimisers
from ois_network.training.rounds import batch_losses
from ois_network.training.trainer import RunOptions, train
from support.network_scenes import MICRO
from support.training_runs import ONE_ROUND, RECIPE, STEPS, Ten, metrics, run, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_number_of_workers_does_not_change_the_batches() -> None:
    plan = BatchPlan(SceneSource(MICRO, RECIPE), MICRO, RECIPE, plan_stages(RECIPE, 0, 1)[0])
    for number in range(STEPS):
        first, again = plan[number], plan[number]
        assert torch.equal(first.image, again.image)
        assert torch.equal(first.points, again.points)
    loader = torch.utils.data.DataLoader(plan, batch_size=None, sampler=range(2), num_workers=1)
    for number, batch in enumerate(loader):
        assert torch.equal(batch.target, plan[number].target)


def test_processes_see_different_parts_of_the_same_step() -> None:
    stages = plan_stages(RECIPE, 0, 2)[0]
    source = SceneSource(MICRO, RECIPE)
    ranks = [BatchPlan(source, MICRO, RECIPE, stages, rank, 2) for rank in (0, 1)]
    names = [set(plan[0].names) for plan in ranks]
    assert not names[0] & names[1]
    assert ranks[0][0].image.shape == ranks[1][0].image.shape


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    config = RECIPE.replace(stages=(Stage(longest=56, images=4, objects=2, steps=40, coarse=True),))
    run(tmp_path, config)
    records = metrics(tmp_path)
    for name in ("mask", "depth"):
        early = np.mean([record[name] for record in records[:8]])
        late = np.mean([record[name] for record in records[-8:]])
        assert late < early, name


def test_frozen_parts_keep_their_weights(tmp_path: Path) -> None:
    config = RECIPE.replace(frozen=("encoder", "depth_head"), loss=LossConfig(), ema=0.0)
    before = build(MICRO, seed=1).state_dict()
    after = weights(run(tmp_path, config))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(("encoder.", "depth_head.")) for name in changed)
    assert any(name.startswith("mask_head.") for name in changed)
    assert any(name.startswith("inject.") for name in changed)


def test_a_stage_without_objects_trains_depth_and_grouping(tmp_path: Path) -> None:
    loss = LossConfig(depth_weight=1.0, grouping_weight=0.3)
    stages = (Stage(longest=56, images=2, objects=0, steps=40),)
    optimiser = OptimiserConfig(kind="adamw", lr=1e-3)
    path = run(tmp_path, RECIPE.replace(loss=loss, stages=stages, optimiser=optimiser, ema=0.0))
    before, after = build(MICRO, seed=1).state_dict(), weights(path)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"encoder", "depth_head", "project"}
    assert not any("mask" in line for line in metrics(tmp_path))

    batch = BatchPlan(SceneSource(MICRO, RECIPE), MICRO, RECIPE, [(0, Stage(56, 16, steps=1))])[0]

    def grouping(network: OISNetwork) -> float:
        with torch.no_grad():
            encoded = encode_batch(network, batch.image, batch.pos_rows, batch.pos_cols)
            features = network.project(encoded.levels[3].flatten(2).transpose(1, 2))
            return float(grouping_loss(features, batch.instances, MICRO.patch).mean())

    assert grouping(load_checkpoint(path).network) < 0.9 * grouping(build(MICRO, seed=1))


def test_accumulated_batches_make_one_step_of_their_mean_gradient(tmp_path: Path) -> None:
    """The expected weights come from one step of gradient descent on both batches."""
    config = RECIPE.replace(
        accumulate=2, stages=(Stage(longest=56, images=1, objects=2, steps=1, rounds=0),),
        optimiser=OptimiserConfig(kind="adamw", lr=1e-3), ema=0.0,
    )  # fmt: skip
    found = weights(run(tmp_path, config))
    network = build(MICRO, seed=1).train()
    plan = BatchPlan(SceneSource(MICRO, config), MICRO, config, plan_stages(config, 0, 1)[0])
    optimisers = build_optimisers(network, config.optimiser)
    for number in (0, 1):
        losses = batch_losses(network, plan[number], config, 0, np.random.default_rng(0))
        (losses.total / 2).backward()
    for optimiser in optimisers:
        optimiser.step()
    expected = network.state_dict()
    assert all(torch.allclose(found[name], expected[name], atol=2e-5) for name in expected)


def test_bf16_trains_and_the_weights_stay_fp32(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    def watch(network: OISNetwork, batch: Batch) -> EncodedBatch:
        encoded = encode_batch(network, batch.image, batch.pos_rows, batch.pos_cols)
        seen.append(network.project(encoded.levels[3].flatten(2).transpose(1, 2)).dtype)
        return encoded

    found = weights(run(tmp_path, RECIPE.replace(bf16=True, stages=RECIPE.stages[1:]),
                        features=watch))  # fmt: skip
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert all(np.isfinite(record["mask"]) for record in metrics(tmp_path))


def test_epochs_need_a_finite_data_set() -> None:
    with pytest.raises(InvalidInput, match=r"counts epochs, .*--data hqseg44k:ROOT"):
        plan_stages(RECIPE.replace(stages=(Stage(epochs=15),)), 0, 1)


def test_frozen_parts_are_not_left_random(tmp_path: Path) -> None:
    config = RECIPE.replace(frozen=("encoder",))
    with pytest.raises(InvalidInput, match=r"freezes encoder, .*--weights"):
        train(config, SceneSource(MICRO, config), RunOptions(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_epoch_visits_every_image_once() -> None:
    config = RECIPE.replace(stages=(Stage(longest=56, images=2, objects=1, epochs=2),))
    stages, total = plan_stages(config, 10, 1)
    assert total == 10
    plan = BatchPlan(Ten(MICRO, config), MICRO, config, stages)
    names = [name for number in range(total) for name in plan[number].names]
    assert sorted(names[:10]) == sorted(names[10:]) == sorted(f"scene {k}" for k in range(10))
    assert names[:10] != names[10:]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    network = build(MICRO, seed=1)
    with torch.no_grad():
        network.project.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="the loss became nan at step 1"):
        train(
            RECIPE,
            SceneSource(MICRO, RECIPE),
            RunOptions(tmp_path, workers=0, say=lambda _text: None),
            start=network,
        )


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, stop_after=4)
    run(tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = {point.step: point.value for point in events.Scalars("mask")}
    expected = {record["step"]: record["mask"] for record in metrics(tmp_path)}
    assert points == pytest.approx(expected, abs=1e-6)


def test_progress_reports_the_remaining_time(tmp_path: Path) -> None:
    said: list[str] = []
    run(tmp_path, say=said.append)
    assert said[0].startswith("step 1/6  mask ")
    assert all(re.search(r"[\d.]+ s/step  left \d+ min$", line) for line in said)


def test_evaluation_is_logged(tmp_path: Path) -> None:
    config = RECIPE.replace(
        evaluate_every=3, evaluate_scenes=1, stages=(Stage(longest=56, images=1, steps=3),)
    )
    run(tmp_path, config)
    record = next(item for item in metrics(tmp_path) if "miou1" in item)
    assert 0 <= record["miou1"] <= 1
    assert len(record["curve"]) == 5


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from support.training_runs import ONE_ROUND, run
run(Path(sys.argv[1]), ONE_ROUND)
"""


def test_two_processes_train_together(tmp_path: Path) -> None:
    """Two processes with one batch each end with the weights of one with two batches per step."""
    script = tmp_path / "script.py"
    tests = str(Path(__file__).parents[2])
    script.write_text(SCRIPT.format(paths=[tests, *sys.path]), encoding="utf-8")
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONFAULTHANDLER": "1"
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", str(script), str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[:4000] + done.stderr[-1000:]
    assert len(metrics(tmp_path / "run")) == 4
    path = tmp_path / "run" / "last.safetensors"
    assert load_checkpoint(path).metadata["training"]["steps"] == 4
    expected = weights(run(tmp_path / "alone", ONE_ROUND.replace(accumulate=2)))
    found = weights(path)
    far = {name: float((found[name] - expected[name]).abs().max()) for name in expected}
    assert max(far.values()) < 1e-4, far


def test_every_tensor_of_a_batch_moves() -> None:
    plan = BatchPlan(SceneSource(MICRO, RECIPE), MICRO, RECIPE, plan_stages(RECIPE, 0, 1)[0])
    moved = plan[0].to(torch.device("meta"))
    tensors = [getattr(moved, name) for name in Batch.__slots__]
    assert all(t.device.type == "meta" for t in tensors if isinstance(t, torch.Tensor))
