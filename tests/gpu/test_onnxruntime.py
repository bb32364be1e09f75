"""Graphs for the target cuda in ONNX Runtime's CUDA provider, against its CPU provider.

In process, ois runs these graphs on the CPU; on a GPU, Triton runs them. So this test opens them
with ONNX Runtime directly. It needs a GPU and onnxruntime-gpu.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ois_export.export import write_engines
from ois_export.parity.network_gate import CASES, make_prompts
from ois_export.targets import Target
from ois_network.checkpoints.checkpoint import load_checkpoint
from ois_runtime.engines.pixels import preprocess

PROVIDER = "CUDAExecutionProvider"
TINY = Path(__file__).resolve().parents[2] / "models" / "ois-tiny.safetensors"

pytestmark = pytest.mark.skipif(
    PROVIDER not in onnxruntime.get_available_providers(),
    reason="needs onnxruntime-gpu: this package has no CUDA provider",
)


@pytest.mark.parametrize(
    ("precision", "error", "iou"), [("fp32", 1e-3, 0.999), ("fp16", 0.02, 0.99)]
)
def test_the_cuda_provider_computes_what_the_cpu_provider_does(
    tmp_path: Path, precision: str, error: float, iou: float
) -> None:
    checkpoint = load_checkpoint(TINY)
    write_engines(checkpoint, tmp_path, name="tiny", target=Target.CUDA, precision=precision)
    config = checkpoint.config
    for number, case in enumerate(CASES):
        pixels, geometry = preprocess(
            case.sample.pixels(), longest=config.longest, patch=config.patch
        )
        rows, columns = geometry.position_matrices(config.position_table)
        feeds = {"image": pixels, "pos_rows": rows, "pos_cols": columns}
        feeds |= make_prompts(case, geometry, number).named()
        got, want = (answer(tmp_path, feeds, each) for each in (PROVIDER, "CPUExecutionProvider"))
        assert np.abs(got - want).max() <= error * np.abs(want).max()
        both, either = ((got > 0) & (want > 0)).sum(), ((got > 0) | (want > 0)).sum()
        assert both / either >= iou


def answer(folder: Path, feeds: dict[str, np.ndarray], provider: str) -> np.ndarray:
    """The logits of the clicks."""
    given = dict(feeds)
    for name in ("encoder", "decoder"):
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=[provider])
        assert session.get_providers()[0] == provider, "the provider's libraries do not load"
        wanted = {each.name for each in session.get_inputs()}
        outputs = [each.name for each in session.get_outputs()]
        made = session.run(outputs, {k: v for k, v in given.items() if k in wanted})
        given |= dict(zip(outputs, made, strict=True))
    logits: np.ndarray = given["logits"]
    return logits.astype(np.float32)
