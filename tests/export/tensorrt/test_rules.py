"""The lint finds what TensorRT would reject or compute incorrectly, and `adapt` rewrites it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ois_cli.main import main
from ois_client.contract.errors import UnsupportedGraph
from ois_export.graphs import lint
from ois_export.targets import Target
from ois_export.tensorrt import rules
from ois_export.tensorrt.adapt import for_tensorrt

F32, F16, U8, I64 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.UINT8,
    TensorProto.INT64,
)
Value = tuple[str, int, list[int | str]]


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[Value],
    outputs: list[Value],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 23,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=11,
    )
    inferred = onnx.shape_inference.infer_shapes(made)
    made.graph.value_info.extend(inferred.graph.value_info)
    return made


def attention(kind: int = F16, size: int = 64, **changes: object) -> onnx.ModelProto:
    """Self-attention with 4 heads. changes: attributes, or `extra` for further inputs."""
    extra = list(changes.pop("extra", []))
    outputs = list(changes.pop("outputs", ["y"]))
    node = helper.make_node(
        "Attention", ["x", "x", "x", *extra], outputs, name="a", q_num_heads=4, kv_num_heads=4,
        **changes,
    )  # fmt: skip
    given: list[Value] = [("x", kind, [1, "t", 4 * size])]
    given += [(name, kind, [1, 1, "t", "t"]) for name in extra if name]
    return model([node], given, [("y", kind, [1, "t", 4 * size])])


def ranks(
    constants: dict[str, np.ndarray] | None = None, **shapes: list[int | str]
) -> onnx.ModelProto:
    """Cross-attention with 4 heads and a mask, with inputs of these shapes."""
    usual: dict[str, list[int | str]] = {
        "query": [1, 4, "q", 64],
        "key": [1, 4, "k", 64],
        "value": [1, 4, "k", 64],
        "mask": ["q", "k"],
    }
    names = list(usual)
    node = helper.make_node("Attention", names, ["y"], name="a", q_num_heads=4, kv_num_heads=4)
    given = [(name, F16, shape) for name, shape in (usual | shapes).items()]
    given = [value for value in given if value[0] not in (constants or {})]
    return model([node], given, [("y", F16, [1, 4, "q", 64])], constants)


def node(kind: str, inputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, ["y"], name="n", **attributes)


PIXELS: Value = ("x", F32, ["n", 3, 8, 8])
Y: Value = ("y", F32, ["n", 3, 8, 8])
SCALES = {"s": np.array([1, 1, 2, 2], dtype=np.float32)}

GOOD = model([node("Relu", ["x"])], [PIXELS], [Y])
BROKEN: list[tuple[lint.Rule, onnx.ModelProto, str]] = [
    (
        rules.standard_operators,
        model([node("FusedGelu", ["x"], domain="com.microsoft")], [PIXELS], [Y]),
        "com.microsoft.FusedGelu",
    ),
    (rules.attention_inputs, attention(outputs=["y", "k", "v"]), "3 outputs"),
    (rules.attention_inputs, attention(extra=["", "c", "d"]), "cache"),
    (rules.attention_inputs, attention(extra=["m"], is_causal=1), "causal"),
    (
        rules.attention_inputs,
        ranks(query=[1, "q", 256], key=[1, 4, "k", 64], value=[1, 4, "k", 64]),
        "query, key, value of 3, 4, 4 axes",
    ),
    (
        rules.attention_inputs,
        ranks(query=[1, 4, "q", 64], key=[1, 4, "k", 64], value=[1, "k", 256]),
        "query, key, value of 4, 4, 3 axes",
    ),
    (rules.attention_inputs, ranks(mask=[1, 1, 1, "q", "k"]), "a mask of 5 axes"),
    (
        rules.attention_inputs,
        ranks(constants={"mask": np.zeros((1, 1, 1, 1, 1), dtype=np.float16)}),
        "a mask of 5 axes",
    ),
    (rules.attention_fuses, attention(kind=F32), "expected fp16 or bf16"),
    (rules.attention_fuses, attention(size=8), "heads of 8"),
    (rules.attention_fuses, attention(size=264), "heads of 264"),
    (rules.attention_fuses, attention(size=20), "heads of 20"),
    (
        rules.attention_fuses,
        model(
            [helper.make_node("Attention", ["x", "x", "x", "m"], ["y"], name="a", q_num_heads=1,
                              kv_num_heads=1)],
            [("x", F16, [1, "t", 64]), ("m", F32, ["t", "t"])],
            [("y", F16, [1, "t", 64])],
        ),
        "mixes the types float, float16",
    ),
    (
        rules.no_self_normalisation,
        model(
            [
                helper.make_node("ReduceMin", ["x"], ["low"], keepdims=1),
                helper.make_node("ReduceMax", ["x"], ["high"], keepdims=1),
                helper.make_node("Sub", ["x", "low"], ["y"]),
            ],
            [PIXELS],
            [Y, ("high", F32, [1, 1, 1, 1])],
        ),
        "'x' is normalised by its own minimum and maximum",
    ),
    (
        rules.uint8_at_the_edge,
        model(
            [
                helper.make_node("Transpose", ["i"], ["t"], name="t", perm=[2, 0, 1]),
                helper.make_node("Cast", ["t"], ["y"], to=F32),
            ],
            [("i", U8, ["h", "w", 3])],
            [("y", F32, [3, "h", "w"])],
        ),
        "(Transpose) reads uint8 'i'",
    ),
    (
        rules.uint8_at_the_edge,
        model(
            [
                helper.make_node("Cast", ["x"], ["t"], name="c", to=U8),
                helper.make_node("Cast", ["t"], ["y"], to=F32),
            ],
            [PIXELS],
            [Y],
        ),
        "(Cast) makes uint8 't'",
    ),
    (
        rules.no_scatter_reduction,
        model(
            [node("ScatterElements", ["x", "i", "x"], reduction="add")],
            [PIXELS, ("i", I64, ["n", 3, 8, 8])],
            [Y],
        ),
        "scatters with add",
    ),
    (
        rules.known_resizes,
        model([node("Resize", ["x", "", "s"], mode="cubic")], [PIXELS], [Y], SCALES),
        "mode cubic",
    ),
    (
        rules.known_resizes,
        model(
            [node("Resize", ["x", "", "s"], mode="linear", antialias=1)], [PIXELS], [Y], SCALES
        ),
        "antialiasing",
    ),
    (
        rules.constant_reduction_axes,
        model([node("ReduceMean", ["x", "axes"])], [PIXELS, ("axes", I64, [1])], [Y]),
        "computed axes",
    ),
    (rules.opset_fits, model([node("Relu", ["x"])], [PIXELS], [Y], opset=16), "opset 16"),
    (
        rules.opset_fits,
        model(
            [
                helper.make_node("Cast", ["x"], ["t"], to=TensorProto.BFLOAT16),
                helper.make_node("Cast", ["t"], ["y"], to=F32),
            ],
            [PIXELS],
            [Y],
            opset=20,
        ),
        "expected 22 to 24",
    ),
    (
        lint.one_half_type,
        model(
            [
                helper.make_node("Cast", ["x"], ["t"], to=F16),
                helper.make_node("Cast", ["t"], ["u"], to=F32),
                helper.make_node("MatMul", ["u", "u"], ["y"], name="m"),
            ],
            [PIXELS],
            [Y],
        ),
        "'m' (MatMul) is fp32 in a half graph",
    ),
    (
        lint.one_half_type,
        model(
            [
                helper.make_node("Cast", ["x"], ["t"], to=F16),
                helper.make_node("Cast", ["t"], ["u"], to=TensorProto.BFLOAT16),
                helper.make_node("Cast", ["u"], ["y"], to=F32),
            ],
            [PIXELS],
            [Y],
        ),
        "fp16 and bf16",
    ),
    (
        lint.fp32_islands,
        model(
            [node("LayerNormalization", ["x", "w"])],
            [("x", F16, ["n", 8])],
            [("y", F16, ["n", 8])],
            {"w": np.ones(8, dtype=np.float16)},
        ),
        "(LayerNormalization) is float16",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "broken", "says"), BROKEN, ids=[f"{rule.__name__}-{say}" for rule, _, say in BROKEN]
)
def test_each_rule_finds_the_graph_that_breaks_it(
    rule: lint.Rule, broken: onnx.ModelProto, says: str
) -> None:
    found = list(rule(broken))
    assert any(says in complaint for complaint in found), found


def test_every_rule_of_tensorrt_has_a_broken_graph() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(rules.TENSORRT_RULES) - set(lint.CPU_RULES)


@pytest.mark.parametrize("rule", rules.TENSORRT_RULES, ids=lambda rule: rule.__name__)
def test_each_rule_accepts_good_graphs_and_says_why(rule: lint.Rule) -> None:
    assert list(rule(GOOD)) == []
    assert list(rule(attention())) == []
    assert list(rule(ranks())) == []
    assert list(rule(ranks(mask=[1, 4, "q", "k"]))) == []
    assert len(rule.__doc__ or "") > 40


def test_every_target_has_rules() -> None:
    assert all(target.rules() for target in Target)
    assert rules.standard_operators not in Target.CPU.rules()


def scatter_graph() -> onnx.ModelProto:
    """Add values (N, P, C) to base (N, K, C) at rows (N, P, 1), as the exporter writes it."""
    return model(
        [
            helper.make_node("Expand", ["rows", "shape"], ["index"]),
            helper.make_node(
                "ScatterElements", ["base", "index", "values"], ["y"], axis=1, reduction="add"
            ),
        ],
        [
            ("base", F32, ["n", "k", 4]),
            ("rows", I64, ["n", "p", 1]),
            ("values", F32, ["n", "p", 4]),
            ("shape", I64, [3]),
        ],
        [("y", F32, ["n", "k", 4])],
    )


def test_a_scattered_sum_becomes_a_product_with_the_same_values() -> None:
    generator = np.random.default_rng(0)
    feeds = {
        "base": generator.standard_normal((2, 9, 4)).astype(np.float32),
        "rows": np.array([[[0], [8], [8]], [[3], [3], [3]]]),
        "values": generator.standard_normal((2, 3, 4)).astype(np.float32),
        "shape": np.array([2, 3, 4]),
    }
    rewritten = for_tensorrt(scatter_graph())
    onnx.checker.check_model(rewritten, full_check=True)
    assert list(rules.no_scatter_reduction(rewritten)) == []
    assert list(rules.no_scatter_reduction(scatter_graph()))  # the original is unchanged
    before, after = run(scatter_graph(), feeds), run(rewritten, feeds)
    np.testing.assert_allclose(after, before, atol=1e-6)
    expected = feeds["base"].copy()
    np.add.at(expected, (np.array([[0], [1]]), feeds["rows"][..., 0]), feeds["values"])
    np.testing.assert_allclose(after, expected, atol=1e-6)


def test_other_scatters_are_refused() -> None:
    broken = scatter_graph()
    broken.graph.node[1].attribute[1].s = b"max"
    with pytest.raises(UnsupportedGraph, match="scatters with max"):
        for_tensorrt(broken)


def test_uint8_inputs_are_cast_before_anything_else() -> None:
    graph = model(
        [
            helper.make_node("Unsqueeze", ["image", "zero"], ["batch"]),
            helper.make_node("Transpose", ["batch"], ["moved"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["moved"], ["y"], to=F32),
            helper.make_node("Shape", ["image"], ["size"]),
        ],
        [("image", U8, ["h", "w", 3])],
        [("y", F32, [1, 3, "h", "w"]), ("size", I64, [3])],
        {"zero": np.array([0])},
    )
    assert len(list(rules.uint8_at_the_edge(graph))) >= 3
    rewritten = for_tensorrt(graph)
    onnx.checker.check_model(rewritten, full_check=True)
    assert list(rules.uint8_at_the_edge(rewritten)) == []
    image = np.arange(30, dtype=np.uint8).reshape(2, 5, 3) * 8
    np.testing.assert_array_equal(run(graph, {"image": image}), run(rewritten, {"image": image}))


def run(graph: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(["y"], feeds)[0]
    return result


def test_ois_lint_names_the_rule_and_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "graph.onnx"
    onnx.save(attention(kind=F32), str(path))
    assert main(["lint", str(path), "--rules"]) == 2
    shown = capsys.readouterr()
    assert "attention_fuses: node 'a' is float; expected fp16 or bf16" in shown.out
    assert "4705" in shown.out
    assert "breaks 1 of" in shown.err
    assert main(["lint", str(path), "--json"]) == 2
    (broken,) = json.loads(capsys.readouterr().out)["broken"]
    assert broken["rule"] == "attention_fuses"
    assert main(["lint", str(path), "--target", "cuda"]) == 0
    assert "keeps all" in capsys.readouterr().out


def test_ois_lint_refuses_what_it_cannot_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.onnx").write_text("not a graph")
    for name, target, says in (
        ("text.onnx", "tensorrt", "as ONNX"),
        ("none.onnx", "tensorrt", "none.onnx"),
        ("text.onnx", "tpu", "'tpu'"),
    ):
        assert main(["lint", str(tmp_path / name), "--target", target]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert "Traceback" not in error
