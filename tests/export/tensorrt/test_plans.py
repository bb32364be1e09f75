"""Built plans run in process, on memory that is reused and freed."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from ois_client.contract.errors import (
    EngineError,
)
from ois_client.contract.geometry import Geometry
from ois_export.parity.cases import SQUARE, Case, make_prompts
from ois_export.parity.reference import open_reference
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.pair import GraphPair, MaskEngines
from ois_runtime.engines.pixels import postprocess
from ois_runtime.tensorrt.engine import PlanGraph, choose_profile, open_graph
from ois_runtime.tensorrt.memory import DeviceBuffers
from ois_runtime.tensorrt.pair import PlanPair
from support.network_scenes import MICRO
from support.tensorrt.builds import RANGES, build
from support.tensorrt.fake import APIS, FakeTensorRT, HostMemory


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory, half_graphs: Path) -> Path:
    folder = tmp_path_factory.mktemp("plans")
    return build(half_graphs, folder, FakeTensorRT(APIS[-1]), ranges=RANGES)


def open_plans(folder: Path) -> tuple[GraphPair, HostMemory]:
    """Open the engines; also returns the decoder's memory."""
    trt, memory = FakeTensorRT(APIS[-1]), HostMemory()
    encoder = PlanGraph(folder / "encoder.plan", trt, HostMemory())
    decoder = PlanGraph(folder / "decoder.plan", trt, memory)
    return GraphPair(Manifest.load(folder), "fake", encoder, decoder), memory


def test_plans_run_in_process_and_keep_an_image_s_features_on_the_gpu(
    plans: Path, half_graphs: Path
) -> None:
    engines, memory = open_plans(plans)
    geometry = Geometry.fit(112, 84, longest=MICRO.longest)
    image = np.full((geometry.network_height, geometry.network_width, 3), 90, dtype=np.uint8)
    prompts = make_prompts(Case(SQUARE, ((2, 1, True), (1, 0, False))), geometry, seed=0)
    state = engines.encode(image, geometry)
    assert state.arrays["features"].dtype == np.float16
    assert state.arrays["depth"].dtype == np.float32
    logits, coverage = engines.decode(state, prompts)
    with open_reference(half_graphs) as onnx_engines:
        expected, expected_coverage = onnx_engines.decode(
            onnx_engines.encode(image, geometry), prompts
        )
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(coverage, expected_coverage)

    held, uploads = len(memory.held), memory.uploads
    again, _ = engines.decode(state, prompts)
    np.testing.assert_array_equal(again, logits)
    assert memory.uploads == uploads + 4  # only the prompts
    assert len(memory.held) == held
    count = len(state.arrays)
    del state
    gc.collect()
    assert len(memory.held) == held - count


@pytest.mark.parametrize("packs", [True, False], ids=["masks on the GPU", "without PyTorch"])
def test_features_and_logits_of_a_pair_stay_on_the_gpu(plans: Path, packs: bool) -> None:
    simple, _ = open_plans(plans)
    trt, memories = FakeTensorRT(APIS[-1]), (HostMemory(), HostMemory())
    graphs = [
        PlanGraph(plans / f"{half}.plan", trt, memory)
        for half, memory in zip(("encoder", "decoder"), memories, strict=True)
    ]
    pair = PlanPair(Manifest.load(plans), "fake", *graphs, packs=packs)
    assert isinstance(pair, MaskEngines)
    geometry = Geometry.fit(150, 113, longest=MICRO.longest)
    size = (geometry.network_height, geometry.network_width, 3)
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    case = Case(SQUARE, ((2, 1, True), (1, 0, False), (1, 1, True), (1, 0, False), (1, 1, True)))
    prompts = make_prompts(case, geometry, seed=0)
    other = simple.encode(image, geometry)
    want, want_coverage = simple.decode(other, prompts)
    state = pair.encode(image, geometry)
    assert memories[0].downloads == 8  # the depth's min and max
    assert state.nbytes == sum(array.nbytes for array in other.arrays.values())
    for name, array in other.arrays.items():
        np.testing.assert_array_equal(state.arrays[name], array)

    uploads, memories[1].downloads = memories[1].uploads, 0
    masks = pair.decode_masks(state, prompts, want_logits=False)
    assert memories[1].uploads == uploads + 4 * 2  # the prompts of two parts, and no features
    expected = np.packbits(postprocess(want, geometry).reshape(len(want), -1), axis=1)
    assert expected.any()
    np.testing.assert_array_equal(masks.packed, expected)
    np.testing.assert_array_equal(masks.coverage, want_coverage)
    assert masks.logits is None
    assert (memories[1].downloads == masks.coverage.nbytes) is packs  # no logits
    again = pair.decode_masks(state, prompts, want_logits=True)
    np.testing.assert_array_equal(again.logits, want)
    np.testing.assert_array_equal(pair.decode(other, prompts)[0], want)  # of a file: uploaded

    del simple, graphs, pair
    gc.collect()
    assert len(memories[0].held) == 1  # the image's features, in one block
    del state
    gc.collect()
    assert not memories[0].held
    assert not memories[1].held


def test_a_closed_engine_leaves_nothing_on_the_gpu(plans: Path) -> None:
    engines, memory = open_plans(plans)
    geometry = Geometry.fit(112, 84, longest=MICRO.longest)
    image = np.full((geometry.network_height, geometry.network_width, 3), 90, dtype=np.uint8)
    state = engines.encode(image, geometry)
    engines.decode(state, make_prompts(Case(SQUARE, ((2, 1, True),)), geometry, seed=0))
    assert memory.held
    assert not memory.closed
    del engines
    gc.collect()
    assert not memory.held  # not even the features of the image state, which still exists
    assert memory.closed
    del state
    gc.collect()


def test_a_buffer_is_not_reused_after_it_failed_to_grow() -> None:
    memory = HostMemory()
    buffers = DeviceBuffers(memory)
    small = buffers.named("logits", 10)
    memory.failures = 1
    with pytest.raises(EngineError, match="out of memory"):
        buffers.named("logits", 1000)
    assert small not in memory.held
    large = buffers.named("logits", 5)  # smaller than the buffer that failed, still a new one
    assert list(memory.held) == [large]
    buffers.close()
    assert not memory.held
    assert memory.closed


def test_a_failed_copy_keeps_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = HostMemory()
    buffers = DeviceBuffers(memory)
    features = np.arange(6.0)
    features.flags.writeable = False

    def fails(*_: object) -> None:
        raise EngineError("cudaMemcpyAsync failed")

    with monkeypatch.context() as broken:
        broken.setattr(memory, "upload", fails)
        with pytest.raises(EngineError, match="cudaMemcpyAsync"):
            buffers.place("features", features)
    assert not memory.held
    assert buffers.place("features", features) == buffers.place("features", features)
    assert memory.uploads == 1


def test_more_objects_than_a_plan_was_built_for_run_in_parts(plans: Path) -> None:
    engines, _ = open_plans(plans)
    case = Case(SQUARE, ((1, 1, True),) * 9)
    geometry = Geometry.fit(112, 112, longest=MICRO.longest)
    state = engines.encode(np.full((112, 112, 3), 80, dtype=np.uint8), geometry)
    prompts = make_prompts(case, geometry, 1)
    logits, coverage = engines.decode(state, prompts)
    assert len(prompts.labels) == len(logits) == len(coverage) == 9
    for row in (0, 4, 8):  # of the three parts
        alone, _ = engines.decode(state, prompts.map(lambda array, r=row: array[r : r + 1]))
        np.testing.assert_allclose(logits[row], alone[0], atol=0.02 * np.abs(alone).max())


def test_requests_that_a_plan_was_not_built_for_are_refused(plans: Path, tmp_path: Path) -> None:
    engines, _ = open_plans(plans)
    wide = Geometry.fit(112, 14, longest=MICRO.longest)
    image = np.zeros((wide.network_height, wide.network_width, 3), dtype=np.uint8)
    with pytest.raises(EngineError, match=r"not built for image 14x112x3.*42x112x3 to 112x112x3"):
        engines.encode(image, wide)
    encoder = PlanGraph(plans / "encoder.plan", FakeTensorRT(APIS[-1]), HostMemory())
    with pytest.raises(EngineError, match="image is float32; expected uint8"):
        encoder.run({name: np.zeros(1, dtype=np.float32) for name in encoder.inputs})
    with pytest.raises(EngineError, match="another version or for another GPU"):
        PlanGraph(plans / "encoder.plan", FakeTensorRT(APIS[0]), HostMemory())
    (tmp_path / "cut.plan").write_bytes(b"plan")
    with pytest.raises(EngineError, match="cannot load"):
        PlanGraph(tmp_path / "cut.plan", FakeTensorRT(APIS[0]), HostMemory())


def test_a_graph_is_refused_as_a_plan(graphs: Path) -> None:
    with pytest.raises(EngineError, match=r"encoder.onnx is not a TensorRT plan.*ois build"):
        open_graph(graphs / "encoder.onnx", EngineOptions(device="cuda"))


def test_the_profile_tuned_nearest_is_chosen() -> None:
    profiles = [
        {"x": ((1, 8), (1, 8), (1, 8))},
        {"x": ((1, 8), (8, 8), (32, 8))},
        {"x": ((1, 8), (2, 8), (4, 8))},
    ]
    chosen = [choose_profile(profiles, {"x": (n, 8)}) for n in (1, 2, 3, 5, 32, 33)]
    assert chosen == [0, 2, 2, 1, 1, None]
    assert choose_profile(profiles, {"x": (1, 9)}) is None
