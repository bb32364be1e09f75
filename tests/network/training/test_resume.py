"""An interrupted run resumes to the same result, and failures leave the last good state."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ois_client.contract.errors import CheckpointError, OutputError
from ois_network.initialise import build
from ois_network.training.config import (
    OptimiserConfig,
)
from ois_network.training.data.sources import SceneSource
from ois_network.training.state import load_state
from ois_network.training.trainer import RunOptions, train
from support.network_scenes import MICRO
from support.training_runs import RECIPE, metrics, run, weights

pytestmark = pytest.mark.usefixtures("one_thread")


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


def interrupted_save(folder: Path) -> None:
    """Press Ctrl-C while `state.pt` is being written; in its own process, see `interrupted_run`."""
    fsync = os.fsync

    def interrupt(number: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        fsync(number)

    os.fsync = interrupt
    try:
        run(folder, RECIPE.replace(checkpoint_minutes=0.0))
    except KeyboardInterrupt:
        sys.exit(130)


def test_ctrl_c_in_the_middle_of_saving_leaves_a_whole_state(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=interrupted_save, args=(tmp_path,)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 130
    assert 1 <= load_state(tmp_path).step <= 2
    assert not list(tmp_path.glob(".*part"))


def interrupted_run(folder: Path) -> None:
    """In its own process, so that the signal does not reach what other tests have loaded."""

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
    assert load_state(tmp_path).step == 2
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

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left.*no file was changed"):
        run(tmp_path, resume=True)
    assert (tmp_path / "state.pt").read_bytes() == good
    assert not list(tmp_path.glob(".*part"))


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for suffix in ("4242.tmp", "4242.139.part"):
        (tmp_path / f".state.pt.{suffix}").write_bytes(b"half")
    run(tmp_path, stop_after=1)
    assert not list(tmp_path.glob(".state.pt*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 4}, "seed: 3, 4"),
        ({"optimiser": OptimiserConfig(kind="adamw", lr=1.0)}, "optimiser.kind: muon, adamw"),
        ({"frozen": ("encoder",)}, "frozen"),
    ],
)
def test_another_recipe_does_not_resume_a_run(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    run(tmp_path, stop_after=1)
    with pytest.raises(CheckpointError, match=rf"started with other settings.*{said}.*--weights"):
        run(tmp_path, RECIPE.replace(**changes), resume=True)
    with pytest.raises(CheckpointError, match=r"data: procedural scenes, others"):
        run(tmp_path, data="others", resume=True)
    run(tmp_path, RECIPE.replace(log_every=2), resume=True, stop_after=2)  # only its reports differ


def test_a_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    run(tmp_path, stop_after=1)
    with pytest.raises(OutputError, match="--resume"):
        run(tmp_path)


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_a_damaged_state_is_reported(tmp_path: Path, damage: str) -> None:
    run(tmp_path, stop_after=1)
    path = tmp_path / "state.pt"
    path.write_bytes(b"hello" if damage == "text" else path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read as the state of a training run"):
        run(tmp_path, resume=True)


def test_a_state_of_another_network_is_reported(tmp_path: Path) -> None:
    run(tmp_path, stop_after=1)
    with pytest.raises(CheckpointError, match="other dimensions"):
        train(
            RECIPE,
            SceneSource(MICRO, RECIPE),
            RunOptions(tmp_path, resume=True, workers=0, say=lambda _text: None),
            start=build(MICRO.replace(head_features=8)),
        )
