"""ONNX Runtime with its inputs and results on a device, here with the CPU provider.

A GPU differs in the provider, its options, and where the tensors are.
`tests/gpu/test_onnxruntime.py` tests it there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from ois_client.contract.clicks import Click, Prompts, fill_slots
from ois_client.contract.errors import EngineError, InvalidInput, ServerOverloaded
from ois_client.contract.geometry import Geometry
from ois_client.sessions.client import Client
from ois_runtime.engines import onnx_device
from ois_runtime.engines.backends import EngineBackend, EngineOptions, load_engines
from ois_runtime.engines.cuda_graphs import OrtGraphs
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.onnx_device import OrtPair, OrtSession, OrtState, Place, open_pair
from ois_runtime.engines.pair import HostPrompts, MaskEngines
from ois_runtime.engines.pixels import postprocess
from support.tiny_engines import LONGEST, PATCH, write_engines

#: A mask is three times as large as the network's image.
GEOMETRY = Geometry.fit(168, 126, longest=LONGEST, patch=PATCH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def pair(folder: Path) -> OrtPair:
    return open_pair(folder, EngineOptions(threads=1))


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (42, 56, 3), dtype=np.uint8)


def prompts(count: int = 2) -> HostPrompts:
    points, labels = fill_slots([[Click(60 + 9 * n, 60)] for n in range(count)], GEOMETRY)
    coverage = np.zeros((count, *GEOMETRY.coverage_shape), dtype=np.uint8)
    return Prompts(points, labels, coverage, np.zeros(count, dtype=np.bool_))


@pytest.mark.parametrize("packs", [True, False], ids=["masks on the device", "without PyTorch"])
def test_it_computes_what_the_backend_on_the_cpu_does(
    pair: OrtPair, folder: Path, packs: bool
) -> None:
    plain = load_engines(folder, EngineBackend.ONNXRUNTIME, EngineOptions(threads=1))
    assert pair.packs
    pair.packs = packs
    state, other = pair.encode(picture(), GEOMETRY), plain.encode(picture(), GEOMETRY)
    assert state.arrays.keys() == other.arrays.keys()
    for name, array in state.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])
    assert state.nbytes == other.nbytes
    got, want = pair.decode(state, prompts()), plain.decode(other, prompts())
    for one, same in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, same)
    assert isinstance(pair, MaskEngines)
    masks = pair.decode_masks(state, prompts(), want_logits=True)
    np.testing.assert_array_equal(masks.logits, want[0])
    np.testing.assert_array_equal(masks.coverage, want[1])
    expected = np.packbits(postprocess(want[0], GEOMETRY).reshape(2, -1), axis=1)
    assert expected.any()
    np.testing.assert_array_equal(masks.packed, expected)
    assert pair.decode_masks(state, prompts(), want_logits=False).logits is None


def test_a_click_uses_the_features_where_they_are(
    pair: OrtPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = pair.encode(picture(), GEOMETRY)
    given: list[dict[str, Any]] = []
    run = OrtSession.run

    def spy(self: OrtSession, feeds: dict[str, Any]) -> dict[str, Any]:
        given.append(feeds)
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "run", spy)
    monkeypatch.delattr(onnx_device.OrtArrays, "__getitem__")  # copies from the device
    monkeypatch.setattr(onnx_device.OrtArrays, "__abstractmethods__", frozenset())
    pair.decode_masks(state, prompts(), want_logits=False)
    (feeds,) = given
    assert all(feeds[name] is value for name, value in state.tensors.items())
    assert all(isinstance(value, onnxruntime.OrtValue) for value in state.tensors.values())


def test_a_shape_that_comes_back_runs_in_fixed_buffers(folder: Path) -> None:
    """As CUDA graphs need them: one set for each grid and bucket, filled for every click."""
    pair = open_pair(folder, EngineOptions(threads=1, cuda_graphs=2))
    plain = load_engines(folder, EngineBackend.ONNXRUNTIME, EngineOptions(threads=1))
    assert pair.graphs is not None
    states = [
        (pair.encode(picture(n), GEOMETRY), plain.encode(picture(n), GEOMETRY)) for n in (1, 2)
    ]
    for number, (which, count) in enumerate(
        [(0, 2), (0, 2), (1, 1), (1, 2), (0, 1), (0, 3), (0, 4)]
    ):
        state, other = states[which]
        want, want_coverage = plain.decode(other, prompts(count))
        got = pair.decode_masks(state, prompts(count), want_logits=True)
        np.testing.assert_array_equal(got.logits, want, err_msg=str(number))
        np.testing.assert_array_equal(got.coverage, want_coverage)
        masks = postprocess(want, GEOMETRY).reshape(count, -1)
        np.testing.assert_array_equal(got.packed, np.packbits(masks, axis=1))
        np.testing.assert_array_equal(pair.decode(state, prompts(count))[0], want)
    # Buckets 2 and 1; bucket 4 is one more than allowed, because ONNX Runtime keeps every graph.
    assert (pair.graphs.pool.captures, len(pair.graphs.pool)) == (2, 2)
    assert pair.graphs.pool.replays > 4


def test_a_shape_that_cannot_be_captured_runs_without_a_graph(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pair = open_pair(folder, EngineOptions(threads=1))
    assert pair.graphs is not None

    def fails(*_given: object) -> None:
        raise EngineError("operation not permitted when stream is capturing")

    monkeypatch.setattr(OrtGraphs, "_capture", fails)
    state = pair.encode(picture(), GEOMETRY)
    for _ in range(4):
        assert pair.decode(state, prompts(1))[0].shape == (1, 42, 56)
    assert caplog.text.count("cannot capture a CUDA graph for a grid of 3x4 and 1 objects") == 1


def test_before_dlpack_masks_are_made_on_the_cpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime.OrtValue, "__dlpack__", raising=False)  # from 1.26 on
    pair = open_pair(folder, EngineOptions(threads=1))
    assert not pair.packs
    assert pair.graphs is None
    state = pair.encode(picture(), GEOMETRY)
    for _ in range(3):
        assert pair.decode_masks(state, prompts(), want_logits=False).packed.any()


def test_the_options_of_cuda_are_those_of_its_graphs() -> None:
    (_, options), _ = Place("cuda", 1).providers(graphs=True)
    assert options["enable_cuda_graph"] == "1"
    assert options["device_id"] == "1"
    (_, options), _ = Place("cuda").providers()
    assert "enable_cuda_graph" not in options


def test_features_that_were_stored_as_arrays_are_sent_again(pair: OrtPair) -> None:
    state = pair.encode(picture(), GEOMETRY)
    loaded = ImageState({name: np.array(a) for name, a in state.arrays.items()}, GEOMETRY)
    for got, want in zip(
        pair.decode(loaded, prompts()), pair.decode(state, prompts()), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_its_depth_is_checked_and_cannot_be_changed(pair: OrtPair) -> None:
    state = pair.encode(picture(), GEOMETRY)
    with pytest.raises(ValueError, match="read-only"):
        state.arrays["depth"][:] = 0
    bad = dict(state.tensors)
    bad["depth_max"] = onnxruntime.OrtValue.ortvalue_from_numpy(np.float32([np.inf]))
    with pytest.raises(EngineError, match="'depth_max' is inf: the arithmetic overflowed"):
        OrtState.of(bad, GEOMETRY)
    with pytest.raises(EngineError, match="has no output 'depth'"):
        OrtState.of({}, GEOMETRY)
    with pytest.raises(EngineError, match=r"'depth' has shape \(1, 42, 56\); expected"):
        OrtState.of(state.tensors, Geometry.fit(56, 56, longest=LONGEST, patch=PATCH))


def test_a_client_opens_it_for_a_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way of `Client`, with the CPU provider in the place of CUDA's."""
    monkeypatch.setattr(onnx_device, "_load_libraries", lambda: None)
    monkeypatch.setattr(Place, "of", classmethod(lambda cls, _device: cls("cpu")))
    masks = {}
    image = picture(3).repeat(3, axis=0).repeat(3, axis=1)
    for device in ("cuda", "cpu"):
        with Client(f"local:{folder}", backend="onnxruntime", device=device) as client:
            session = client.open(image)
            masks[device] = [session.click(60, 60), session.click(90, 70)]
            assert (f" {device} " in client.info.engine) is (device == "cuda")
    np.testing.assert_array_equal(masks["cuda"], masks["cpu"])
    assert masks["cuda"][1].any()


@pytest.mark.skipif(
    onnx_device.CUDA_PROVIDER in onnxruntime.get_available_providers(),
    reason="this ONNX Runtime has CUDA",
)
def test_an_onnx_runtime_without_cuda_is_an_error(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"built without CUDA; .* install 'ois-deploy\[gpu\]'"):
        Client(f"local:{folder}", backend="onnxruntime", device="cuda")
    # ONNX Runtime itself only warns and runs everything on the CPU.
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(EngineError, match="with CPUExecutionProvider; expected CUDAExecution"),
    ):
        OrtSession(folder / "encoder.onnx", Place("cuda"))


def test_the_providers_of_a_gpu() -> None:
    assert Place.of("cpu").providers() == ["CPUExecutionProvider"]
    first, last = Place.of("cuda:1").providers()
    assert (first[0], last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    options = first[1]
    assert options["device_id"] == "1"
    assert options["use_tf32"] == "0"
    assert all(isinstance(value, str) for value in options.values())
    assert Place.of("cuda").index == 0


def test_the_precision_of_the_graphs_is_used_on_a_gpu_only() -> None:
    EngineOptions(device="cuda", precision="fp16").check(EngineBackend.ONNXRUNTIME)
    with pytest.raises(InvalidInput, match="supports fp32"):
        EngineOptions(precision="fp16").check(EngineBackend.ONNXRUNTIME)


def test_full_memory_and_other_failures_differ(
    pair: OrtPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = pair.encode(picture(), GEOMETRY)

    class Failing:
        def __init__(self, session: Any, text: str) -> None:
            self._session, self._text = session, text

        def io_binding(self) -> Any:
            return self._session.io_binding()

        def run_with_iobinding(self, _binding: Any, _options: Any) -> None:
            raise RuntimeError(self._text)

    real = pair._decoder._session
    for text, kind in (
        ("BFCArena::AllocateRawInternal Failed to allocate memory for 99", ServerOverloaded),
        ("CUDA failure 2: out of memory", ServerOverloaded),
        ("CUDNN_STATUS_EXECUTION_FAILED", EngineError),
    ):
        monkeypatch.setattr(pair._decoder, "_session", Failing(real, text))
        with pytest.raises(kind, match=text[:9]):
            pair.decode(state, prompts())


def test_a_wrong_result_or_file_is_named(
    pair: OrtPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = pair.encode(picture(), GEOMETRY)
    run = OrtSession.run

    def cut(self: OrtSession, feeds: dict[str, Any]) -> dict[str, Any]:
        made = run(self, feeds)
        small = np.zeros((1, 2, 2), dtype=np.float32)
        return {**made, "logits": onnxruntime.OrtValue.ortvalue_from_numpy(small)}

    monkeypatch.setattr(OrtSession, "run", cut)
    with pytest.raises(EngineError, match=r"returned logits \(1, 2, 2\)"):
        pair.decode(state, prompts())
    (tmp_path / "encoder.onnx").write_text("no graph")
    with pytest.raises(EngineError, match=r"cannot load .*encoder\.onnx"):
        OrtSession(tmp_path / "encoder.onnx", Place("cpu"))
