"""Graphs for the target cuda in ONNX Runtime's CUDA provider, against its CPU provider.

Both alone, as Triton runs them, and as the backend onnxruntime of `Client`. Needs a GPU and
onnxruntime-gpu.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ois_client.sessions.client import Client
from ois_export.export import write_engines
from ois_export.parity.network_gate import CASES, make_prompts
from ois_export.targets import Target
from ois_network.checkpoints.checkpoint import load_checkpoint
from ois_runtime.engines import onnx_device
from ois_runtime.engines.backends import EngineOptions
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
        pixels, geometry = preprocess(case.sample.pixels(), config.fit)
        rows, columns = geometry.position_matrices(config.position_table)
        feeds = {"image": pixels, "pos_rows": rows, "pos_cols": columns}
        feeds |= make_prompts(case, geometry, number).named()
        got, want = (answer(tmp_path, feeds, each) for each in (PROVIDER, "CPUExecutionProvider"))
        assert np.abs(got - want).max() <= error * np.abs(want).max()
        both, either = ((got > 0) & (want > 0)).sum(), ((got > 0) | (want > 0)).sum()
        assert both / either >= iou


@pytest.mark.parametrize(("precision", "iou"), [("fp32", 0.999), ("fp16", 0.985)])
@pytest.mark.parametrize("packs", [True, False], ids=["masks on the GPU", "masks on the CPU"])
def test_a_client_on_the_gpu_sees_the_cpus_masks(
    tmp_path: Path, precision: str, iou: float, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load_checkpoint(TINY)
    write_engines(checkpoint, tmp_path, name="tiny", target=Target.CUDA, precision=precision)
    if not packs:
        monkeypatch.setattr(onnx_device, "_torch_shares", lambda _place: False)
    picture = CASES[0].sample.pixels()
    masks = {}
    for url, device in ((f"local:{TINY}", "cpu"), (f"local:{tmp_path}", "cuda")):
        backend = "torch" if device == "cpu" else "onnxruntime"
        with Client(url, backend=backend, device=device) as client:
            session = client.open(picture)
            masks[device] = [session.click(x, y) for x, y in ((300, 200), (120, 80), (450, 300))]
    for got, want in zip(masks["cuda"], masks["cpu"], strict=True):
        assert (got & want).sum() / (got | want).sum() >= iou


def test_features_stay_on_the_gpu(tmp_path: Path) -> None:
    write_engines(
        load_checkpoint(TINY), tmp_path, name="tiny", target=Target.CUDA, precision="fp16"
    )
    pair = onnx_device.open_pair(tmp_path, EngineOptions(device="cuda"))
    config = load_checkpoint(TINY).config
    pixels, geometry = preprocess(CASES[0].sample.pixels(), config.fit)
    state = pair.encode(pixels, geometry)
    assert {value.device_name() for value in state.tensors.values()} == {"cuda"}


def test_clicks_are_replayed_as_cuda_graphs(tmp_path: Path) -> None:
    """As without graphs, for images that alternate and every bucket that is captured."""
    write_engines(
        load_checkpoint(TINY), tmp_path, name="tiny", target=Target.CUDA, precision="fp16"
    )
    graphs, plain = (
        onnx_device.open_pair(tmp_path, EngineOptions(device="cuda", cuda_graphs=most))
        for most in (4, 0)
    )
    assert graphs.graphs is not None, "this session cannot use CUDA graphs"
    config = load_checkpoint(TINY).config
    pixels, geometry = preprocess(CASES[0].sample.pixels(), config.fit)
    images = [pixels, pixels[::-1].copy()]
    states = [(graphs.encode(each, geometry), plain.encode(each, geometry)) for each in images]
    for number in range(8):
        state, other = states[number % 2]
        given = make_prompts(CASES[0], geometry, number)
        got, _ = graphs.decode(state, given)
        want, _ = plain.decode(other, given)
        assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()
    assert graphs.graphs.pool.captures == 1
    assert graphs.graphs.pool.replays > 4


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
