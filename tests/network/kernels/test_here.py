"""An engine on a GPU that nobody measured measures once, and keeps the result for the next.

The kernels run in Triton's interpreter (`test_parity.py` says why in another process); the GPU and
its times are invented.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton, which is for Linux")

from ois_client.contract.errors import ParityError
from ois_network.config import preset
from ois_network.kernels import here, operations
from ois_network.kernels.choice import Measurement, choose, knows
from ois_network.kernels.operations import measured_choice, measured_for
from ois_network.kernels.slots import Call
from support.kernels import cases
from support.kernels.measured import measurement

GPU = torch.device("cuda", 0)
VITB = preset("vitb")
CALL = Call(1, 48, 256, 5329, 8, torch.float16)
HALF = torch.float16


def never(_run: Callable[[], object]) -> float:
    raise AssertionError("the stopwatch was used")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """This machine has a GPU of capability 9.9, where the kernels take half of PyTorch's time."""
    calls: list[Call] = []

    def measure(call: Call, *_others: object) -> list[Measurement]:
        calls.append(call)
        return [measurement(objects, 0.5) for objects in here.OBJECTS]

    for module in (here, operations):
        monkeypatch.setattr(module, "capability_of", lambda _device: "9.9")
    monkeypatch.setattr(here, "gpu_name", lambda _device: "NVIDIA X1")
    monkeypatch.setattr(here, "measure", measure)
    return calls


def test_the_first_engine_measures_and_the_next_reads(measured: list[Call], tmp_path: Path) -> None:
    first = here.measurements_here(VITB, HALF, GPU, never, tmp_path / "new")
    assert measured == [CALL]
    assert here.measurements_here(VITB, HALF, GPU, never, tmp_path / "new") == first
    assert len(measured) == 1
    assert measured_for(VITB, HALF, GPU, first)
    assert measured_choice(first)(CALL, GPU) is not None
    (file,) = (tmp_path / "new").iterdir()
    about = json.loads(file.read_text())["devices"]["9.9"]
    assert about["gpu"] == "NVIDIA X1"
    assert about["versions"]["torch"] == torch.__version__


def test_another_gpu_version_or_network_is_measured_again(
    measured: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.measurements_here(VITB, HALF, GPU, never, tmp_path)
    here.measurements_here(VITB.replace(longest=518), HALF, GPU, never, tmp_path)
    assert [call.keys for call in measured] == [5329, 1369]
    monkeypatch.setattr(here, "gpu_name", lambda _device: "NVIDIA X2")
    here.measurements_here(VITB, HALF, GPU, never, tmp_path)
    monkeypatch.setattr(here, "_versions", lambda: {"torch": "9", "triton": "9"})
    here.measurements_here(VITB, HALF, GPU, never, tmp_path)
    assert len(measured) == 4
    assert len(list(tmp_path.iterdir())) == 3


def test_committed_measurements_are_used_and_not_repeated(
    measured: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [measurement(1, 2.0)]
    monkeypatch.setattr(here, "read_measurements", lambda *_path: {"9.9": rows})
    assert here.measurements_here(VITB, HALF, GPU, never, tmp_path) == rows
    assert not measured


@pytest.mark.parametrize(
    ("config", "dtype", "device"),
    [
        (VITB, torch.float32, GPU),
        (VITB.replace(dense=False), HALF, GPU),
        (VITB, HALF, torch.device("cpu")),
    ],
)
def test_where_the_kernels_cannot_run_nothing_is_measured(
    config: object,
    dtype: torch.dtype,
    device: torch.device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capability = "9.9" if device.type == "cuda" else ""
    monkeypatch.setattr(here, "capability_of", lambda _device: capability)
    assert here.measurements_here(config, dtype, device, never, tmp_path) == []  # type: ignore[arg-type]


def test_a_failure_leaves_pytorchs_attention_and_says_so(
    measured: list[Call],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_given: object) -> list[Measurement]:
        raise ParityError("they differ from the equations by 1.0e+00")

    monkeypatch.setattr(here, "measure", fails)
    assert here.measurements_here(VITB, HALF, GPU, never, tmp_path) == []
    assert "not used on this GPU: they differ" in caplog.text
    assert not list(tmp_path.iterdir())
    assert not measured


def test_a_damaged_or_missing_cache_is_no_obstacle(
    measured: list[Call],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = here.measurements_here(VITB, HALF, GPU, never, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert here.measurements_here(VITB, HALF, GPU, never, tmp_path) == rows
    (tmp_path / "file").write_text("not a folder")
    assert here.measurements_here(VITB, HALF, GPU, never, tmp_path / "file") == rows
    assert "could not keep the measurements" in caplog.text
    monkeypatch.setattr(here, "cache_folder", lambda: None)
    with caplog.at_level(logging.INFO):
        assert here.measurements_here(VITB, HALF, GPU, never) == rows
    assert len(measured) == 4
    assert "measured the attention kernels in" in caplog.text


def test_the_cache_is_where_the_system_wants_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert here.cache_folder() == tmp_path / "ois-deploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert here.cache_folder() == tmp_path / ".cache" / "ois-deploy"


def test_candidates_fill_the_gpu_and_no_second_wave_is_needed() -> None:
    """With the share of the touched patches, which is launched together with the others."""
    found = here.candidates(CALL, multiprocessors=132)
    best = found[0]
    assert (best.queries, best.keys) == (64, 64)
    assert 8 * (best.splits + 1) == 2 * 132
    assert len(found) == 6
    assert all(blocks.splits >= 1 for blocks in here.candidates(measurement(64, 1).call, 4))


def test_a_click_is_measured_by_both_ways_until_the_time_is_up() -> None:
    context = multiprocessing.get_context("spawn")
    with (
        patch.dict(os.environ, {"TRITON_INTERPRET": "1"}),
        ProcessPoolExecutor(1, mp_context=context) as pool,
    ):
        short, taken = pool.submit(cases.measure_here, 0.0).result(timeout=240)
        assert ([row.call.objects for row in short], taken) == ([1], 2)
        rows, taken = pool.submit(cases.measure_here, 1e9).result(timeout=240)
    assert [row.call.objects for row in rows] == [1, 2]
    assert taken == 4  # PyTorch and one tile, twice
    assert all(row.kernels_us < row.torch_us for row in rows)
    call = rows[0].call
    assert knows(rows, call)
    assert choose(rows, call) == rows[0].blocks
