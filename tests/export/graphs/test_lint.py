"""Each lint rule finds a graph that breaks it and accepts a good graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ois_client.contract.errors import UnsupportedGraph
from ois_export.graphs import lint


def model(
    *nodes: onnx.NodeProto,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    constants: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8])
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Relu", ["x"], ["y"])],
        "test",
        inputs or [x],
        outputs or [y],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )


def if_node() -> onnx.NodeProto:
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "b", [], [value])
    return helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)


BROKEN = {
    lint.known_domains: model(helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft")),
    lint.no_control_flow: model(if_node()),
    lint.no_data_dependent_shapes: model(helper.make_node("NonZero", ["x"], ["y"])),
    lint.no_grid_sample: model(helper.make_node("GridSample", ["x", "g"], ["y"])),
    lint.deterministic: model(helper.make_node("RandomNormalLike", ["x"], ["y"])),
    lint.finite_constants: model(constants={"mask": np.array([0, -np.inf], dtype=np.float32)}),
    lint.no_double_precision: model(constants={"w": np.zeros(4, dtype=np.float64)}),
    lint.no_resize_of_positions: model(
        helper.make_node("Resize", ["x", "", "s"], ["y"], mode="cubic")
    ),
    lint.free_axes: model(
        inputs=[helper.make_tensor_value_info("image", TensorProto.UINT8, [84, "w", 3])]
    ),
    lint.valid_onnx: model(helper.make_node("Relu", ["nothing"], ["y"])),
}


@pytest.mark.parametrize("rule", lint.CPU_RULES, ids=lambda rule: rule.__name__)
def test_each_rule_finds_the_graph_that_breaks_it(rule: lint.Rule) -> None:
    assert list(rule(BROKEN[rule]))


@pytest.mark.parametrize("rule", lint.CPU_RULES, ids=lambda rule: rule.__name__)
def test_each_rule_accepts_a_good_graph(rule: lint.Rule) -> None:
    assert not list(rule(model()))


def test_a_cast_to_double_is_found() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE)
    assert list(lint.no_double_precision(model(cast)))


def test_the_fused_attention_is_allowed_on_cpu() -> None:
    attention = helper.make_node(
        "MultiHeadAttention", ["x", "x", "x"], ["y"], domain="com.microsoft", num_heads=1
    )
    assert not list(lint.known_domains(model(attention)))


def test_check_names_every_complaint(tmp_path: Path) -> None:
    path = tmp_path / "decoder.onnx"
    onnx.save(BROKEN[lint.finite_constants], str(path))
    with pytest.raises(UnsupportedGraph, match="finite_constants: constant 'mask'"):
        lint.check(path)
