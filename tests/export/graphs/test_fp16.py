"""Half precision stays within its limits, with trained weights, on photographs and on noise.

ois-tiny is exported in fp32 with `Attention`, as for TensorRT and CUDA, converted to half
precision and run in ONNX Runtime on CPU. bf16 is emulated (see ois_export/parity/reference.py).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ois_benchmarks.gpu.plugin import LAYERS
from ois_cli.main import main
from ois_client.contract.errors import InvalidInput, ParityError, UnsupportedGraph
from ois_export.export import describe_graph, export_engines, write_engines
from ois_export.graphs.precision import FP32_STATE, ONNX_TYPES, half_tensor, typed
from ois_export.parity.cases import CASES, Case, Sample
from ois_export.parity.comparison import Limits
from ois_export.parity.network_gate import measure, run_gate
from ois_export.parity.reference import emulate_bf16, open_reference
from ois_export.targets import Target
from ois_export.tensorrt.adapt import for_tensorrt
from ois_network.checkpoints.checkpoint import Checkpoint, load_checkpoint
from ois_runtime.engines.backends import Precision
from ois_runtime.engines.manifest import Manifest

TINY = Path(__file__).resolve().parents[3] / "models" / "ois-tiny.safetensors"
HALVES = (Precision.FP16, Precision.BF16)


@dataclasses.dataclass(frozen=True)
class Noise(Sample):
    """Random pixels instead of a photograph."""

    def pixels(self) -> NDArray[np.uint8]:
        generator = np.random.default_rng(5)
        return generator.integers(0, 256, (240, 320, 3), dtype=np.uint8)


NOISE = Case(Noise("noise", "", (0, 0, 320, 240)), ((2, 1, True), (1, 0, False)))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(TINY)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Path:
    """Graphs for CUDA in fp32."""
    folder = tmp_path_factory.mktemp("cuda")
    write_engines(checkpoint, folder, name="tiny", target=Target.CUDA)
    return folder


@pytest.fixture(scope="module", params=HALVES, ids=str)
def half(
    tmp_path_factory: pytest.TempPathFactory, graphs: Path, request: pytest.FixtureRequest
) -> Path:
    """The same graphs, adapted to TensorRT, in half precision and linted."""
    folder = tmp_path_factory.mktemp(str(request.param))
    engines = {}
    for role in ("encoder", "decoder"):
        path = folder / f"{role}.onnx"
        model = for_tensorrt(onnx.load(str(graphs / path.name)))
        onnx.save(typed(model, request.param), str(path))
        engines[role] = describe_graph(path, Target.TENSORRT)
    manifest = dataclasses.replace(
        Manifest.load(graphs), target="tensorrt", precision=request.param.value, **engines
    )
    manifest.save(folder)
    return folder


def test_the_cuda_graphs_compute_what_the_network_does(
    graphs: Path, checkpoint: Checkpoint
) -> None:
    kinds = Counter(
        node.op_type
        for role in ("encoder", "decoder")
        for node in onnx.load(str(graphs / f"{role}.onnx")).graph.node
    )
    assert kinds["Attention"] == 6 + 7
    assert not kinds.keys() & {"MultiHeadAttention", "Softmax", "GridSample"}
    with open_reference(graphs) as engines:
        result = measure(checkpoint.network, engines, CASES[2], seed=3)
    assert result.logit_error < 2e-5
    assert result.mask_iou > 0.9999
    assert result.row_difference < 1e-6


def test_half_precision_passes_the_gate(half: Path, checkpoint: Checkpoint) -> None:
    precision = Precision.parse(Manifest.load(half).precision)
    with open_reference(half) as engines:
        record = run_gate(
            checkpoint.network,
            engines,
            limits=Limits.of(precision),
            cases=(*CASES[1:3], NOISE),
        )
    assert record["limits"] == dataclasses.asdict(Limits.of(precision))
    worst = max(case["logit_error"] for case in record["cases"])
    assert worst > 1e-5  # the engines really are in half precision
    assert ("emulated" in record["engines"]) == (precision is Precision.BF16)


def test_the_gate_refuses_larger_errors(half: Path, checkpoint: Checkpoint) -> None:
    strict = dataclasses.replace(Limits.of(Precision.FP16), logit_error=1e-6)
    with (
        open_reference(half) as engines,
        pytest.raises(ParityError, match=r"logit_error is .*; the limit is 1e-06"),
    ):
        run_gate(checkpoint.network, engines, limits=strict, cases=CASES[1:2])


def test_products_are_half_and_islands_fp32(half: Path) -> None:
    precision = Precision.parse(Manifest.load(half).precision)
    wide = {"LayerNormalization", "Sin", "Cos", "Div", "Abs", "AveragePool", "ReduceMin"}
    for role, products, islands in (("encoder", 70, 4), ("decoder", 55, 2)):
        model = onnx.load(str(half / f"{role}.onnx"))
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.value_info, *inferred.output)
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        half_products, fp32_products = 0, 0
        for node in model.graph.node:
            kind = types.get(node.output[0])
            if node.op_type in wide and kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
                pytest.fail(f"{node.name} ({node.op_type}) is half")
            if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Attention"):
                half_products += kind == ONNX_TYPES[precision]
                fp32_products += kind == TensorProto.FLOAT
        assert half_products > products
        assert fp32_products == islands  # positions, Fourier phases, the last convolution


def test_the_image_state_is_half_except_for_depths(half: Path, graphs: Path) -> None:
    manifest = Manifest.load(half)
    types = {spec.name: spec.dtype for spec in manifest.encoder.outputs}
    stored = "float16" if manifest.precision == "fp16" else "float32"
    assert {name: types[name] for name in FP32_STATE} == dict.fromkeys(FP32_STATE, "float32")
    rest = {kind for name, kind in types.items() if name not in FP32_STATE}
    assert rest == {stored}
    expected = {spec.name: spec.dtype for spec in manifest.decoder.inputs}
    assert {name: expected[name] for name in types} == types
    assert [(s.name, s.dtype) for s in manifest.decoder.outputs] == [
        (s.name, s.dtype) for s in Manifest.load(graphs).decoder.outputs
    ]


def test_graphs_contain_no_paths_of_this_machine(graphs: Path) -> None:
    for role in ("encoder", "decoder"):
        data = (graphs / f"{role}.onnx").read_bytes()
        assert b"split.py" not in data
        assert str(TINY.parents[1]).encode() not in data


def test_rounding_to_bf16_is_to_nearest_even() -> None:
    exact = np.array([1.0, -2.5, 0.0, 3.0e38], dtype=np.float32)
    between = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-12], dtype=np.float32)
    tensor = half_tensor(np.concatenate((exact, between)), "w", Precision.BF16)
    got = numpy_helper.to_array(tensor).astype(np.float32)
    np.testing.assert_allclose(got[:3], exact[:3], rtol=0)
    assert got[3] == pytest.approx(3.0e38, rel=2**-8)
    np.testing.assert_array_equal(got[4:], np.float32([1, 1 + 2**-6, 1 + 2**-7]))


def test_a_weight_beyond_fp16_is_refused() -> None:
    with pytest.raises(UnsupportedGraph, match=r"'w' contains 7e\+04.*fp16 number is 65504.*bf16"):
        half_tensor(np.array([1, -7e4], dtype=np.float32), "w", Precision.FP16)


def test_the_emulation_rounds_every_bf16_tensor() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "p"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, 2])],
        [value("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.array([[1.0], [2**-9]], dtype=np.float32), "w")],
    )
    graph.value_info.append(value("p", TensorProto.FLOAT, [1, 1]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    import onnxruntime

    emulated = emulate_bf16(typed(model, Precision.BF16))
    session = onnxruntime.InferenceSession(
        emulated.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {"x": np.array([[1.0, 1.0]], dtype=np.float32)})
    assert got.item() == 2.0  # 1 + 2**-9 is 1 in bf16; in fp32 it would be 2.00390625


@pytest.mark.parametrize(
    ("target", "precision", "says"),
    [
        ("cpu", "fp16", "the target cpu supports fp32"),
        ("cuda", "bf16", "--target tensorrt supports bf16"),
        ("tensorrt", "int8", "supports fp32, fp16, bf16"),
        ("tpu", "fp32", "'tpu'"),
    ],
)
def test_impossible_targets_and_precisions_are_refused(
    target: str, precision: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "e"
    words = ["export", str(TINY), "--target", target, "--precision", precision, "-o", str(output)]
    assert main(words) == 2
    assert says in capsys.readouterr().err
    assert not output.exists()
    if target != "tpu":
        with pytest.raises(InvalidInput, match="got the precision"):
            export_engines(TINY, output, target=Target.parse(target), precision=precision)


def test_limits_are_json() -> None:
    for precision in set(Precision) - {Precision.INT8}:  # has a gate of its own
        assert json.loads(json.dumps(dataclasses.asdict(Limits.of(precision))))


def test_nodes_are_named_after_their_module(half: Path, checkpoint: Checkpoint) -> None:
    """`ois bench plugin` finds the masked attentions in a profile by these names."""
    nodes = onnx.load(str(half / "decoder.onnx")).graph.node
    found = [node.name for node in nodes if node.op_type == "Attention"]
    masked = [name for name in found if re.search(LAYERS, name)]
    blocks = checkpoint.network.config.fusion_blocks
    assert [name.split("/")[0] for name in masked] == [
        f"network.fusion.blocks.{block}.{kind}_attention"
        for block in range(blocks)
        for kind in ("order", "object")
    ]
    (other,) = set(found) - set(masked)
    assert other.startswith("network.fusion.image_updates.0/")
    assert not any(re.search(LAYERS, node.name) for node in nodes if node.op_type == "MatMul")
    assert len({node.name for node in nodes}) == len(nodes)
