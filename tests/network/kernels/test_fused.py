"""An engine uses the fastest of PyTorch's attentions on its GPU, measured once (invented times)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend

from ois_network.kernels import fused
from ois_network.kernels.fused import Fused, FusedChoice, fused_here, preferred, with_preferred
from support.network_scenes import MICRO

CPU = torch.device("cpu")
HALF = torch.bfloat16


def first() -> SDPBackend:
    """What PyTorch tries first at the moment."""
    return SDPBackend(torch._C._get_sdp_priority_order()[0])


def stopwatch(times: dict[SDPBackend, list[float]]) -> Callable[[Callable[[], object]], float]:
    """Runs, and takes the next invented time of what is tried first. 0: it cannot run here."""

    def time(run: Callable[[], object]) -> float:
        run()
        taken = times[first()].pop(0)
        if not taken:
            raise RuntimeError("no kernel image is available")
        return taken

    return time


def never(_run: Callable[[], object]) -> float:
    raise AssertionError("measured again")


def test_a_preference_is_an_order_and_switches_nothing_off() -> None:
    usual = torch._C._get_sdp_priority_order()
    with preferred(Fused.CUDNN):
        assert first() == SDPBackend.CUDNN_ATTENTION
        assert torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
        with preferred(Fused.PYTORCH):
            assert first() == SDPBackend.CUDNN_ATTENTION
    assert torch._C._get_sdp_priority_order() == usual
    assert with_preferred(Fused.EFFICIENT, lambda: first())() == SDPBackend.EFFICIENT_ATTENTION
    assert with_preferred(Fused.PYTORCH, never) is never


@pytest.mark.usefixtures("one_thread")
def test_each_half_gets_its_fastest_and_the_next_engine_reads_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usual = first()
    times = {
        SDPBackend.FLASH_ATTENTION: [90.0],  # of the encode alone: it takes no mask
        SDPBackend.CUDNN_ATTENTION: [50.0, 0.0],
        SDPBackend.EFFICIENT_ATTENTION: [70.0, 20.0],
    }
    times[usual] = {
        SDPBackend.FLASH_ATTENTION: [80.0, 90.0, 40.0],
        SDPBackend.CUDNN_ATTENTION: [80.0, 50.0, 40.0, 0.0],
        SDPBackend.EFFICIENT_ATTENTION: [80.0, 70.0, 40.0, 20.0],
    }[usual]
    choice = fused_here(MICRO, HALF, CPU, stopwatch(times), tmp_path)
    assert choice == FusedChoice(encode=Fused.CUDNN, click=Fused.EFFICIENT)
    assert not any(times.values())
    assert fused_here(MICRO, HALF, CPU, never, tmp_path) == choice
    (file,) = tmp_path.iterdir()
    file.write_text('{"schema": 1, "kept": {"choice": {"encode": "x"}}}')
    assert fused_here(MICRO, HALF, CPU, never, tmp_path) == FusedChoice()
    assert "measured again" in caplog.text  # a damaged file


@pytest.mark.usefixtures("one_thread")
def test_without_an_answer_pytorch_chooses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_run: Callable[[], object]) -> float:
        raise RuntimeError("CUDA out of memory")

    assert fused_here(MICRO, HALF, CPU, fails, tmp_path) == FusedChoice()
    assert "PyTorch chooses its attention by itself on this GPU: CUDA out of memory" in caplog.text
    assert not list(tmp_path.iterdir())
    assert fused.fastest({Fused.PYTORCH: 100.0, Fused.CUDNN: 97.0}) is Fused.PYTORCH
    assert fused.fastest({}) is Fused.PYTORCH
