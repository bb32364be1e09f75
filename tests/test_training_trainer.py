"""A training run: it learns, it resumes to the same result, and it survives what goes wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from network_scenes import MICRO
from ois_client.errors import CheckpointError, InvalidInput, OutputError
from ois_network.checkpoint import load_checkpoint
from ois_network.initialise import build
from ois_network.network import OISNetwork
from ois_network.training import state as state_module
from ois_network.training.batches import Batch, BatchPlan, SceneSource
from ois_network.training.clicks import ClickConfig
from ois_network.training.config import (
    AugmentConfig,
    LossConfig,
    OptimiserConfig,
    Stage,
    TrainConfig,
)
from ois_network.training.features import FeatureCache
from ois_network.training.forward import encode_batch
from ois_network.training.losses import grouping_loss
from ois_network.training.trainer import RunOptions, plan_stages, train

STEPS = 6
RECIPE = TrainConfig(
    network="tiny",
    seed=3,
    frozen=(),
    stages=(
        Stage(longest=56, images=2, objects=2, steps=4, coarse=True),
        Stage(longest=70, images=1, objects=2, steps=2),
    ),
    optimiser=OptimiserConfig(kind="muon", lr=3e-3, schedule="cosine", warmup=2, clip_norm=1.0),
    clicks=ClickConfig(rounds=1, stride=2, single_share=0.5),
    loss=LossConfig(iou_weight=0.5, depth_weight=1.0),
    augment=AugmentConfig(on=False),
    bf16=False,
    ema=0.9,
    log_every=1,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(folder: Path, config: TrainConfig = RECIPE, **options: Any) -> Path:
    options.setdefault("workers", 0)
    options.setdefault("say", lambda _text: None)
    features = options.pop("features", None)
    return train(
        config,
        SceneSource(MICRO, config),
        RunOptions(folder, **options),
        start=build(MICRO, seed=1),
        features=features,
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).network.state_dict()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_time(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds_per_step"} for record in records]


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=3)
    resumed = run(tmp_path / "parts", resume=True)
    expected, found = weights(whole), weights(resumed)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert without_time(metrics(tmp_path / "whole")) == without_time(metrics(tmp_path / "parts"))


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


def test_a_stage_without_objects_trains_what_every_pixel_tells(tmp_path: Path) -> None:
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


def test_accumulated_batches_make_one_step(tmp_path: Path) -> None:
    run(tmp_path, RECIPE.replace(accumulate=2))
    assert metrics(tmp_path)[-1]["step"] == STEPS


def test_an_epoch_visits_every_image_once() -> None:
    class Ten(SceneSource):
        def __len__(self) -> int:
            return 10

    config = RECIPE.replace(stages=(Stage(longest=56, images=2, objects=1, epochs=2),))
    stages, total = plan_stages(config, 10, 1)
    assert total == 10
    plan = BatchPlan(Ten(MICRO, config), MICRO, config, stages)
    names = [name for number in range(total) for name in plan[number].names]
    assert sorted(names[:10]) == sorted(names[10:]) == sorted(f"scene {k}" for k in range(10))
    assert names[:10] != names[10:]


def interrupted_run(folder: Path) -> None:
    """In a process of its own: a real signal must not meet what other tests have loaded."""

    def interrupt(text: str) -> None:
        if text.startswith("step 2/"):
            os.kill(os.getpid(), signal.SIGINT)

    try:
        run(folder, say=interrupt)
    except KeyboardInterrupt:
        sys.exit(130)


def test_ctrl_c_finishes_the_step_and_saves(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=interrupted_run, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 130
    assert state_module.load_state(tmp_path).step == 2
    resumed = weights(run(tmp_path, resume=True))
    whole = weights(run(tmp_path / "whole"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_full_disk_leaves_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, stop_after=2)
    good = (tmp_path / "state.pt").read_bytes()

    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_module.os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left.*previous file is untouched"):
        run(tmp_path, resume=True)
    assert (tmp_path / "state.pt").read_bytes() == good
    assert not list(tmp_path.glob(".*tmp"))


def test_a_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    run(tmp_path, stop_after=1)
    with pytest.raises(OutputError, match="--resume"):
        run(tmp_path)


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_a_damaged_state_is_said(tmp_path: Path, damage: str) -> None:
    run(tmp_path, stop_after=1)
    path = tmp_path / "state.pt"
    path.write_bytes(b"hello" if damage == "text" else path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not the state of a training run"):
        run(tmp_path, resume=True)


def test_a_state_of_another_network_is_said(tmp_path: Path) -> None:
    run(tmp_path, stop_after=1)
    with pytest.raises(CheckpointError, match="other dimensions"):
        train(
            RECIPE,
            SceneSource(MICRO, RECIPE),
            RunOptions(tmp_path, resume=True, workers=0, say=lambda _text: None),
            start=build(MICRO.replace(head_features=8)),
        )


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


def test_cached_features_give_the_same_run(tmp_path: Path) -> None:
    config = RECIPE.replace(frozen=("encoder", "depth_head"), loss=LossConfig(), stages=(
        Stage(longest=56, images=2, objects=1, steps=3),))  # fmt: skip
    cold = FeatureCache(tmp_path / "cache", build(MICRO, seed=1), config)
    first = weights(run(tmp_path / "a", config, features=cold))
    warm = FeatureCache(tmp_path / "cache", build(MICRO, seed=1), config)
    second = weights(run(tmp_path / "b", config, features=warm))
    assert (cold.hits, cold.misses) == (0, 6)
    assert (warm.hits, warm.misses) == (6, 0)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_features_that_training_would_change_are_not_cached(tmp_path: Path) -> None:
    network = build(MICRO)
    with pytest.raises(InvalidInput, match="encoder"):
        FeatureCache(tmp_path, network, RECIPE)
    frozen = RECIPE.replace(frozen=("encoder", "depth_head"), augment=AugmentConfig())
    with pytest.raises(InvalidInput, match=r"augment\.on"):
        FeatureCache(tmp_path, network, frozen)


def test_unusable_pairs_are_reported(tmp_path: Path) -> None:
    class Holed(SceneSource):
        def sample(self, *arguments: Any) -> Any:
            import dataclasses

            return dataclasses.replace(super().sample(*arguments), skipped=("empty mask: x",))

    said: list[str] = []
    train(
        RECIPE,
        Holed(MICRO, RECIPE),
        RunOptions(tmp_path, workers=0, say=said.append),
        start=build(MICRO),
    )
    assert any("1 pairs could not be used" in line and "empty mask: x" in line for line in said)
    assert metrics(tmp_path)[-1]["skipped"] == {"empty mask: x": 10}


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
from test_training_trainer import RECIPE, run
run(Path(sys.argv[1]), RECIPE.replace(stages=RECIPE.stages[:1]))
"""


def test_two_processes_train_together(tmp_path: Path) -> None:
    """Under torchrun every process ends with the same weights; the first one writes them."""
    script = tmp_path / "script.py"
    tests = str(Path(__file__).parent)
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
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").metadata["training"]["steps"] == 4


def test_a_batch_moves_whole() -> None:
    plan = BatchPlan(SceneSource(MICRO, RECIPE), MICRO, RECIPE, plan_stages(RECIPE, 0, 1)[0])
    moved = plan[0].to(torch.device("meta"))
    tensors = [getattr(moved, name) for name in Batch.__slots__]
    assert all(t.device.type == "meta" for t in tensors if isinstance(t, torch.Tensor))
