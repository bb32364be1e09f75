"""Exported engines compute the same as the network, for every shape and every switch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ois_client.contract.geometry import Geometry
from ois_export.export import write_engines
from ois_export.parity.cases import LANDSCAPE, PANORAMA, PORTRAIT, SQUARE
from ois_export.parity.network_gate import CASES, Case, Limits, make_prompts, measure, run_gate
from ois_network.config import FusionOrder, ImageUpdate
from ois_network.network import OISNetwork
from ois_runtime.engines.backends import EngineBackend, EngineOptions, Precision, load_engines
from ois_runtime.engines.pair import EnginePair
from support.exports import EXACT_OUTLINES, as_checkpoint, micro_engines
from support.network_scenes import MICRO, micro

LIMITS = Limits(depth_error=2e-5, logit_error=2e-5)


@pytest.fixture(scope="module")
def network() -> OISNetwork:
    return micro()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_engines(tmp_path_factory)


@pytest.fixture(scope="module")
def outlines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_engines(tmp_path_factory, exact_outlines=True)


@pytest.fixture(scope="module")
def engines(folder: Path) -> EnginePair:
    return load_engines(folder)


def test_the_gate_passes_and_covers_what_it_promises(
    network: OISNetwork, engines: EnginePair
) -> None:
    report = run_gate(network, engines, limits=LIMITS)
    cases = report["cases"]
    assert len({tuple(case["network_size"]) for case in cases}) == 4
    assert {case["objects"] for case in cases} == {1, 4, 16}
    assert {case["clicks"] for case in cases} >= {1, 48}
    assert any(case["with_previous"] for case in cases)
    assert any(case["with_previous"] < case["objects"] for case in cases)
    assert all(case["mask_iou"] > 0.999 for case in cases)
    spread = {objects for case in CASES for objects in case.objects}
    assert any(positive == 24 and negative == 24 for positive, negative, _ in spread)


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (14, 14), (640, 90), (37, 41)])
def test_extreme_shapes_agree(
    network: OISNetwork, engines: EnginePair, size: tuple[int, int]
) -> None:
    geometry = Geometry.fit(*size, longest=MICRO.longest)
    generator = np.random.default_rng(0)
    shape = (geometry.network_height, geometry.network_width, 3)
    image = generator.integers(0, 256, shape, dtype=np.uint8)
    prompts = make_prompts(Case(SQUARE, ((1, 1, True), (2, 0, False))), geometry, seed=3)
    logits, _ = engines.decode(engines.encode(image, geometry), prompts)
    rows, columns = map(torch.from_numpy, geometry.position_matrices())
    with torch.no_grad():
        features = network.encode(torch.from_numpy(image)[None], rows, columns)
        expected = network.click(features, prompts.map(torch.from_numpy)).numpy()
    assert logits.shape == expected.shape
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("changes", "cached_kv"),
    [
        ({"fusion_order": FusionOrder.OBJECT_FIRST, "fused_levels": (2, 3)}, True),
        (
            {
                "fused_levels": (1, 2, 3, 4),
                "image_update": ImageUpdate.EACH_BLOCK,
                "depth_encoder": True,
            },
            False,
        ),
        ({"fused_levels": (4,), "order": False, "object": False, "dense": False}, True),
        ({"order_attention": False}, True),
        ({"object_attention": False}, True),
        ({"sparse": False}, False),
        ({"dense": False}, True),
        ({"order_attention": False, "depth_encoder": True, "depth_blocks": 2}, True),
    ],
    ids=lambda value: str(value),
)
def test_switches_export(tmp_path: Path, changes: dict[str, object], cached_kv: bool) -> None:
    network = micro(**changes)
    write_engines(as_checkpoint(network), tmp_path, name="micro", cached_kv=cached_kv)
    _check_shapes(network, tmp_path)


def test_exact_outlines_export(outlines: Path) -> None:
    _check_shapes(micro(**EXACT_OUTLINES), outlines)


def _check_shapes(network: OISNetwork, folder: Path) -> None:
    engines = load_engines(folder)
    cases = (
        Case(LANDSCAPE, ((2, 1, True), (1, 0, False))),
        Case(PORTRAIT, ((1, 0, False),)),
        Case(PANORAMA, ((3, 2, True),)),
    )
    for number, case in enumerate(cases):
        result = measure(network, engines, case, seed=number)
        assert result.logit_error < 2e-5
        assert result.depth_error < 2e-5
        assert result.row_difference < 1e-6


def test_openvino_runs_the_same_files(network: OISNetwork, folder: Path) -> None:
    pytest.importorskip("openvino")
    engines = load_engines(folder, EngineBackend.OPENVINO)
    result = measure(network, engines, Case(LANDSCAPE, ((2, 1, True), (1, 0, False))), seed=0)
    assert result.logit_error < 2e-5
    assert result.mask_iou > 0.999


def test_in_bf16_the_arithmetic_of_clicks_stays_fp32(folder: Path) -> None:
    """Coordinates and Fourier phases need more than eight bits, so they stay in fp32."""
    openvino = pytest.importorskip("openvino")
    from ois_runtime.engines.openvino import result_name, split

    core = openvino.Core()
    path = str(folder / "decoder.onnx")
    front, back = split(core.read_model(path), lambda: core.read_model(path))
    names = {port.get_any_name() for port in back.inputs}
    assert {"cut0", "lateral1", "lateral2", "image3", "image4"} <= names
    assert not names & {"points", "labels", "depth", "grid_depth", "has_previous", "features"}
    kinds = {node.get_type_name() for node in back.get_ordered_ops()}
    assert not kinds & {"Sin", "Cos", "Softmax", "ScaledDotProductAttention"}
    assert {"points", "labels", "depth"} <= {port.get_any_name() for port in front.inputs}

    encoder = str(folder / "encoder.onnx")
    early, late = split(core.read_model(encoder), lambda: core.read_model(encoder))
    assert {result_name(result) for result in early.get_results()} == {"position", "cut0"}
    assert "Sin" not in {node.get_type_name() for node in late.get_ordered_ops()}


def test_in_bf16_clicks_behind_the_last_convolution_stay_fp32(outlines: Path) -> None:
    openvino = pytest.importorskip("openvino")
    from ois_runtime.engines.openvino import native_bf16, result_name, split

    core, path = openvino.Core(), str(outlines / "decoder.onnx")
    front, back, tail = split(core.read_model(path), lambda: core.read_model(path))
    names = [{port.get_any_name() for port in part.inputs} for part in (front, back, tail)]
    assert {"points", "labels", "coverage"} <= names[0]
    assert not names[1] & {"points", "labels", "has_previous"}
    assert {"points", "labels"} <= names[2]
    assert not names[2] & {"lateral1", "lateral2", "has_previous"}
    assert not {"Convolution"} & {node.get_type_name() for node in tail.get_ordered_ops()}
    assert {result_name(result) for result in tail.get_results()} == {"logits", "new_coverage"}
    if not native_bf16():
        pytest.skip("this CPU has no native bfloat16; the parts were checked, but not run")
    engines = load_engines(
        outlines, EngineBackend.OPENVINO, EngineOptions(precision=Precision.BF16)
    )
    network = micro(**EXACT_OUTLINES)
    result = measure(network, engines, Case(LANDSCAPE, ((2, 1, True), (1, 0, False))), seed=0)
    assert result.mask_iou > 0.95


def test_the_two_parts_compute_the_whole_graph(engines: EnginePair, folder: Path) -> None:
    """Runs both parts in fp32, so that the test also passes on CPUs without bf16."""
    openvino = pytest.importorskip("openvino")
    from ois_runtime.engines.openvino import result_name, split

    geometry = Geometry.fit(90, 112, longest=MICRO.longest)
    image = np.full((geometry.network_height, geometry.network_width, 3), 90, dtype=np.uint8)
    state = engines.encode(image, geometry)
    prompts = make_prompts(Case(SQUARE, ((2, 1, True), (1, 0, False))), geometry, seed=0)
    expected, expected_coverage = engines.decode(state, prompts)
    known = {**state.arrays, **prompts.named()}
    core = openvino.Core()
    path = str(folder / "decoder.onnx")
    for part in split(core.read_model(path), lambda: core.read_model(path)):
        compiled = core.compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        answer = compiled({port.get_any_name(): known[port.get_any_name()] for port in part.inputs})
        for result, port in zip(part.get_results(), compiled.outputs, strict=True):
            known[result_name(result)] = answer[port]
    np.testing.assert_allclose(known["logits"], expected, atol=2e-5 * np.abs(expected).max())
    changed = np.abs(known["new_coverage"].astype(int) - expected_coverage.astype(int)) > 2
    assert changed.mean() < 0.02


def test_clicks_reach_the_mask_through_the_engine(engines: EnginePair) -> None:
    """Prompts must change the mask; otherwise parity would prove nothing."""
    geometry = Geometry.fit(112, 84, longest=MICRO.longest)
    image = np.full((geometry.network_height, geometry.network_width, 3), 90, dtype=np.uint8)
    state = engines.encode(image, geometry)
    first = make_prompts(Case(SQUARE, ((2, 1, True),)), geometry, seed=0)
    second = make_prompts(Case(SQUARE, ((2, 1, True),)), geometry, seed=1)
    a, _ = engines.decode(state, first)
    b, _ = engines.decode(state, second)
    without_previous = replace(first, has_previous=np.zeros(1, dtype=np.bool_))
    c, _ = engines.decode(state, without_previous)
    assert np.abs(a - b).max() > 1e-2 * np.abs(a).max()
    assert np.abs(a - c).max() > 1e-4 * np.abs(a).max()


def test_the_encoder_uses_the_fused_attention_and_the_decoder_projects_tokens(
    folder: Path,
) -> None:
    for role, fused in (("encoder", True), ("decoder", False)):
        model = onnx.load(str(folder / f"{role}.onnx"))
        kinds = [node.op_type for node in model.graph.node]
        assert (kinds.count("MultiHeadAttention") >= 4) is fused
        assert ("Softmax" in kinds) is not fused
        assert "GridSample" not in kinds
