"""The engines benchmark: one row per engine, with differences from the first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ois_benchmarks.latency import engines
from ois_benchmarks.latency.engine_worker import engine_calls, inputs, torch_calls
from ois_cli.main import main
from ois_client.contract.errors import EngineError, InvalidInput
from ois_network.checkpoints.checkpoint import save_checkpoint
from ois_runtime.engines.backends import Precision
from ois_runtime.engines.manifest import Manifest
from support.network_scenes import MICRO, micro
from support.tiny_engines import disk_logits, write_engines

SIZE = (28, 14)


def row(contestant: str, **changes: object) -> dict[str, object]:
    time = {"median_s": 0.25, "noisy": False}
    return {
        "contestant": contestant,
        "width": SIZE[0],
        "height": SIZE[1],
        "encode": time,
        "click": time,
        "peak_memory_bytes": 2**30,
        "state_bytes": 5_000_000,
        **changes,
    }


def save_logits(folder: Path, contestant: str, logits: np.ndarray) -> None:
    np.save(folder / f"{contestant}-{SIZE[0]}x{SIZE[1]}.npy", logits.astype(np.float32))


def test_differences_are_counted_from_the_first_that_ran(tmp_path: Path) -> None:
    reference = np.array([[4.0, 2.0, -2.0, -4.0]])
    save_logits(tmp_path, "torch", reference)
    save_logits(tmp_path, "onnxruntime", reference + np.array([0.0, -3.0, 0.0, 0.0]))
    rows = [row("gone", failed="no such library"), row("torch"), row("onnxruntime")]
    engines._compare(rows, tmp_path, SIZE)
    assert "mask_iou" not in rows[0]
    assert (rows[1]["logit_error_max"], rows[1]["logit_error_rms"], rows[1]["mask_iou"]) == (
        0,
        0,
        1,
    )
    assert rows[2]["logit_error_max"] == pytest.approx(3 / 4)
    assert rows[2]["logit_error_rms"] == pytest.approx(np.sqrt(9 / 4) / np.sqrt(10))
    assert rows[2]["mask_iou"] == 1 / 2


def test_two_empty_masks_agree(tmp_path: Path) -> None:
    save_logits(tmp_path, "torch", np.array([[-1.0, -2.0]]))
    rows = [row("torch")]
    engines._compare(rows, tmp_path, SIZE)
    assert rows[0]["mask_iou"] == 1.0


def test_it_is_no_error_if_no_engine_ran(tmp_path: Path) -> None:
    rows = [row("torch", failed="x")]
    engines._compare(rows, tmp_path, SIZE)
    assert rows == [row("torch", failed="x")]


def test_the_table_has_a_row_per_engine_and_names_failures() -> None:
    done = row("torch", logit_error_rms=0.00123, mask_iou=0.99876)
    result = {"rows": [done, row("gone", failed="no library")]}
    lines = engines.table_of(result).markdown().splitlines()
    assert lines[2] == "| torch | 28x14 | 0.25 | 0.250 | 1.00 | 5 | 1.2e-03 | 0.9988 |"
    assert lines[3].startswith("| gone | 28x14 | no library |")
    assert len({line.count("|") for line in lines}) == 1


def test_the_image_and_clicks_have_the_requested_size() -> None:
    geometry, image, prompts = inputs(MICRO.fit, 112, 70)
    assert image.shape == (70, 112, 3)
    assert prompts.coverage.shape == (1, geometry.grid_height, geometry.grid_width) == (1, 5, 8)
    assert prompts.coverage.min() == 0 < prompts.coverage.max()
    assert (prompts.labels == 1).sum() == 2
    assert (prompts.labels == 0).sum() == 1
    with pytest.raises(InvalidInput, match="multiples of 14"):
        inputs(MICRO.fit, 112, 69)


def test_a_network_that_cannot_be_prepared_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="could not prepare"):
        engines.run(
            network="micro",
            checkpoint=tmp_path / "missing.safetensors",
            sizes=[(112, 112)],
            contestants=["torch"],
            repeats=1,
            threads=1,
            say=lambda _text: None,
        )


def test_a_contestant_that_cannot_run_is_a_row_with_its_reason(tmp_path: Path) -> None:
    answer = engines._worker(tmp_path / "missing", "torch", (112, 112), 1, 1)
    assert "missing" in answer["failed"]


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    """Restores PyTorch's settings, which an engine changes for its whole process."""
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(gradients)


@pytest.mark.usefixtures("torch_as_it_was")
def test_the_rewritten_network_gives_the_logits_of_the_unrewritten_one(tmp_path: Path) -> None:
    path = tmp_path / "micro.safetensors"
    save_checkpoint(micro(), path, trained=False)
    given = inputs(MICRO.fit, 112, 70)
    logits, sizes = [], []
    for rewritten in (False, True):
        calls = torch_calls(path, *given, rewritten=rewritten, threads=1)
        state = calls.encode()
        logits.append(calls.click(state))
        sizes.append(calls.state_bytes(state))
    assert logits[0].shape == (1, 70, 112)
    assert np.abs(logits[1] - logits[0]).max() < 1e-4 * np.abs(logits[0]).max()
    assert min(sizes) > 4 * 70 * 112  # the depth alone


def test_engine_files_are_run_as_they_are(tmp_path: Path) -> None:
    folder = write_engines(tmp_path)
    geometry, image, prompts = inputs(Manifest.load(folder).fit, 56, 42)
    calls = engine_calls(
        folder, geometry, image, prompts, backend="onnxruntime", precision=Precision.FP32, threads=1
    )
    state = calls.encode()
    centre = prompts.points[0, :2].mean(axis=0)
    share = 6 * prompts.coverage.mean() / 255
    expected = disk_logits((centre[0], centre[1]), (42, 56), 12 - 2 + share)
    np.testing.assert_allclose(calls.click(state)[0], expected, atol=1e-3)
    assert calls.state_bytes(state) >= image[..., 0].size * 4


def test_the_command_passes_its_options_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` is replaced, because measuring takes minutes; its parts are tested above."""
    asked: dict[str, object] = {}

    def run(**options: object) -> dict[str, object]:
        asked.update(options)
        return {"rows": [row("torch", failed="not run")]}

    monkeypatch.setattr(engines, "run", run)
    out = tmp_path / "result.json"
    argv = ["bench", "engines", "--network", "vitb", "--repeats", "2", "--threads", "1"]
    assert main([*argv, "-o", str(out)]) == 0
    assert asked["sizes"] == [(1022, 1022), (1022, 574)]
    assert (asked["network"], asked["checkpoint"]) == ("vitb", None)
    assert (asked["repeats"], asked["threads"]) == (2, 1)
    assert asked["contestants"] == list(engines.CONTESTANTS)
    assert "| torch | 28x14 | not run" in capsys.readouterr().out
    assert json.loads(out.read_text())["rows"][0]["failed"] == "not run"
    assert main([*argv, "-o", str(out), "--size", "1022x700", "--size", "14x14"]) == 0
    assert asked["sizes"] == [(1022, 700), (14, 14)]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--size", "big"], "INVALID_INPUT"),
        (["-o", "out.txt"], "INVALID_INPUT"),
        (["-o", "no/such/out.json"], "OUTPUT_ERROR"),
        (["--repeats", "0"], "USAGE"),
    ],
)
def test_a_mistake_is_reported_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "engines", "-o", "out.json", *options, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_prepare_needs_a_folder_that_can_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "file"
    taken.write_text("mine")
    assert main(["bench", "prepare", str(taken / "below")]) == 2
    assert "cannot create the folder" in capsys.readouterr().err
    assert taken.read_text() == "mine"
