"""Ablations: variants are trained and evaluated in the same way, and compared in pairs."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ois_benchmarks.ablation.evaluation import evaluation
from ois_benchmarks.ablation.result import compared, result, table_of, two_level
from ois_benchmarks.ablation.run import (
    VARIANTS,
    AblationPlan,
    NetworkVariant,
    Start,
    pick,
    run,
    started,
    with_steps,
    with_trunk,
)
from ois_benchmarks.published.paper import paper
from ois_client.contract.errors import InvalidInput, OutputError
from ois_client.contract.files import LineFile
from ois_network.checkpoints.checkpoint import save_checkpoint
from ois_network.initialise import build
from ois_network.training.config import Stage, load_recipe
from support.network_scenes import MICRO

RECIPE = load_recipe("ablation").replace(stages=(Stage(longest=56, images=1, steps=2),), bf16=False)


@pytest.fixture
def plan(tmp_path: Path) -> AblationPlan:
    trunk = tmp_path / "trunk.safetensors"
    save_checkpoint(build(MICRO, seed=5), trunk, trained=False)
    return AblationPlan(
        trunk, tmp_path / "runs", RECIPE, seeds=(0, 1), variants=pick(["no-order"]),
        objects=2, clicks=5, longest=56, threads=1,
    )  # fmt: skip


def test_the_steps_of_a_recipe_can_be_chosen() -> None:
    short = load_recipe("tiny-ablation")
    assert with_steps(short, None) == short
    (stage,) = with_steps(short, 1200).stages
    assert stage == replace(short.stages[0], steps=1200)
    (stage,) = with_steps(short.replace(stages=(Stage(epochs=3),)), 7).stages
    assert (stage.steps, stage.epochs) == (7, 0)
    with pytest.raises(InvalidInput, match="2 stages"):
        with_steps(short.replace(stages=(stage, stage)), 7)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_can_use_the_trunk(variant: object) -> None:
    trunk = build(MICRO, seed=5)
    network = with_trunk(trunk, variant, seed=1)  # type: ignore[arg-type]
    for part in ("encoder", "depth_head"):
        expected = getattr(trunk, part).state_dict()
        for name, value in getattr(network, part).state_dict().items():
            assert torch.equal(value, expected[name])
    for name, value in network.mask_head.state_dict().items():
        assert torch.equal(value, trunk.depth_head.state_dict()[name])


def test_a_short_retraining_starts_from_the_checkpoint_without_the_part() -> None:
    trunk = build(MICRO, seed=5)
    (variant,) = pick(["no-order"])[1:]
    network = started(trunk, variant, seed=1, start=Start.TRAINED)
    given, own = trunk.state_dict(), network.state_dict()
    assert set(own) < set(given)
    for name, value in own.items():
        assert torch.equal(value, given[name]), name


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_variants_of_a_seed_start_from_the_same_values(variant: NetworkVariant) -> None:
    trunk = build(MICRO, seed=5)
    whole = with_trunk(trunk, VARIANTS[0], seed=1).state_dict()
    mine = with_trunk(trunk, variant, seed=1).state_dict()
    for name in whole.keys() & mine.keys():
        assert torch.equal(mine[name], whole[name]), name


def test_the_papers_rows_have_a_variant_each() -> None:
    """MM-SAM is another network, not a variant of this one."""
    rows = [variant.row for variant in VARIANTS if variant.row]
    four = [row.method for row in paper().tables[4].rows]
    five = [row.method for row in paper().tables[5].rows]
    assert rows == [*four, "DepthEncoder"]
    assert five == ["MM-SAM", "DepthEncoder", "OIS"]


def folders_of(tmp_path: Path, count: int) -> str:
    """Images with a bright disk each, and their masks."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    y, x = np.mgrid[:40, :56]
    for number in range(count):
        mask = (x - 20 - 5 * number) ** 2 + (y - 20) ** 2 < 100
        Image.fromarray((mask * 200).astype(np.uint8)).convert("RGB").save(
            tmp_path / "images" / f"{number}.png"
        )
        Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    return f"folders:{tmp_path / 'images'},{tmp_path / 'masks'}"


def test_any_data_set_can_be_clicked_on(plan: AblationPlan, tmp_path: Path) -> None:
    data = folders_of(tmp_path, 3)
    given = replace(plan, seeds=(0,), variants=VARIANTS[:1], data=data, objects=2)
    document = result(given, run(given, lambda _text: None))
    assert (document["data"], document["objects"]) == ("images, 2 of 3", 2)
    assert "2 objects of images, 2 of 3" in table_of(document).markdown()


def test_failures_are_counted_in_both_readings() -> None:
    """Of four objects, one reaches 95 % at the last click and one never."""
    ious = [[0.96] * 5, [0.5, 0.96, 0.97, 0.97, 0.97], [0.5] * 4 + [0.96], [0.5] * 5]
    row = {"variant": "default", "seed": 0, "parameters": 1, "ious": ious}
    document = compared([row], VARIANTS[:1], (0,), data="d", clicks=5, longest=56)
    entry = document["table"][0]
    assert entry["nof95_segnext"]["value"] == 2
    assert entry["nof95_never"]["value"] == 1
    assert entry["noc95"]["value"] == pytest.approx((1 + 2 + 5 + 5) / 4)


def test_unknown_data_is_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    for data in ("davis", "scenes:0", "tea:pot"):
        with pytest.raises(InvalidInput, match="got the data"):
            evaluation(data, None)
    with pytest.raises(InvalidInput):
        evaluation(f"davis:{tmp_path}", None)


def test_an_ablation_runs_resumes_and_reports(plan: AblationPlan) -> None:
    said: list[str] = []
    rows = run(plan, said.append)
    assert [(row["seed"], row["variant"]) for row in rows] == [
        (0, "default"), (0, "no-order"), (1, "default"), (1, "no-order")
    ]  # fmt: skip
    again: list[str] = []
    assert run(plan, again.append) == rows
    assert again == []
    document = json.loads(json.dumps(result(plan, rows)))
    assert [entry["variant"] for entry in document["table"]] == ["default", "no-order"]
    ious = np.array([row["ious"] for row in rows if row["variant"] == "default"])
    assert ious.shape == (2, 2, 5)
    assert document["table"][0]["miou1"]["value"] == pytest.approx(ious[:, :, 0].mean())
    assert "miou1_difference" not in document["table"][0]
    assert table_of(document).markdown().count("\n|") == 3


def test_runs_at_once_give_the_same_rows(plan: AblationPlan, tmp_path: Path) -> None:
    plan = replace(plan, seeds=(0,))
    said: list[str] = []
    rows = run(replace(plan, folder=tmp_path / "at-once"), said.append, jobs=2)
    assert rows == run(plan, lambda _text: None)
    assert said[-1].endswith("done (2 of 2)")


def test_two_commands_do_not_train_the_same_run(plan: AblationPlan) -> None:
    small = replace(plan, seeds=(0,), variants=VARIANTS[:1])
    place = small.folder / "default-seed0"
    place.mkdir(parents=True)
    with (
        closing(LineFile(place / "lock")),
        pytest.raises(OutputError, match="another process is writing"),
    ):
        run(small, lambda _text: None)
    assert run(small, lambda _text: None)


#: A worker whose run ends only by a signal.
_ORPHANS = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from ois_benchmarks.ablation.run import _stop_with_parent

def wait():
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_stop_with_parent)
    pool.submit(wait)
    time.sleep(600)
"""


def test_workers_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(_ORPHANS)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline())
        parent.kill()
        assert parent.stdout.read() == ""  # returns once the worker has ended as well


def test_runs_that_were_trained_in_another_way_are_refused(plan: AblationPlan) -> None:
    small = replace(plan, seeds=(0,), variants=VARIANTS[:1])
    run(small, lambda _text: None)
    with pytest.raises(InvalidInput, match="trained by another plan"):
        run(replace(small, recipe=RECIPE.replace(ema=0.5)), lambda _text: None)


def test_a_trained_network_clicks_on_other_objects_without_another_training(
    plan: AblationPlan,
) -> None:
    small = replace(plan, seeds=(0,), variants=VARIANTS[:1])
    (first,) = run(small, lambda _text: None)
    weights = (small.folder / "default-seed0" / "last.safetensors").stat().st_mtime_ns
    said: list[str] = []
    (row,) = run(replace(small, data="lookalikes:3", objects=None), said.append)
    assert len(row["ious"]) == 3
    assert row["ious"][:2] != first["ious"]
    assert (small.folder / "default-seed0" / "last.safetensors").stat().st_mtime_ns == weights
    assert run(small, said.append) == [first]


def test_unknown_variants_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"no-depth.*expected some of default, no-order"):
        pick(["no-depth"])


def test_the_interval_covers_seeds_and_objects() -> None:
    same = np.full((3, 40), 0.25)
    assert two_level(same).to_dict() == {"value": 0.25, "low": 0.25, "high": 0.25}
    seeds_differ = same + np.array([[-0.2], [0.0], [0.2]])
    wide = two_level(seeds_differ)
    assert wide.value == pytest.approx(0.25)
    assert wide.low < 0.15
    assert wide.high > 0.35
