"""Where a graph may be cut so that only its convolutions' side runs in bfloat16.

bfloat16 keeps eight bits. That is enough for the ViT and the DPT decoder, and ruinous for the
arithmetic of clicks: a pixel coordinate of 443 becomes 444, a Fourier phase of a few hundred
radians becomes noise, and masks of a trained network fall to an IoU of 0.3. So everything
before the first convolution (clicks, order maps, both attentions, positions) is computed in
fp32, and what follows in bfloat16:

    front, fp32    all results without a convolution above them, and the tensors that enter one
    back, bf16     the other results, with those tensors as inputs
"""

from __future__ import annotations

from typing import Any

from openvino import Model, Node, Output, opset13

_CONVOLUTIONS = {"Convolution", "ConvolutionBackpropData", "GroupConvolution"}
_SOURCES = {"Constant", "Parameter"}


def split(front: Model, back: Model) -> tuple[Model, Model]:
    """Two readings of one file -> the fp32 part and the bfloat16 part (see the module).

    The front's results are called as the graph's, or `cut0`, `cut1`, ... as the back's inputs.
    Both models are used up.
    """
    late = _after_convolution(front)
    results = [r for r in front.get_results() if _source(r, 0).get_node() not in late]
    names = [result_name(r) for r in results]
    crossing = [tensor for tensor, _ in _entering(front, late)]
    for number, tensor in enumerate(crossing):
        result = opset13.result(tensor)
        result.set_friendly_name(f"cut{number}")
        results.append(result)
    small = Model(results, _parameters(results), "front")

    kept = [r for r in back.get_results() if result_name(r) not in names]
    inputs = []
    for number, (tensor, consumers) in enumerate(_entering(back, _after_convolution(back))):
        given = opset13.parameter(
            tensor.get_partial_shape(), tensor.get_element_type(), name=f"cut{number}"
        )
        given.output(0).set_names({f"cut{number}"})
        for consumer in consumers:
            consumer.replace_source_output(given.output(0))
        inputs.append(given)
    return small, Model(kept, _parameters(kept), "back")


def result_name(result: Node) -> str:
    """The graph's own name of a result; its tensor may answer to inner names as well."""
    name: str = result.get_friendly_name().partition("/sink_port_")[0]
    return name


def _after_convolution(model: Model) -> set[Node]:
    """Nodes with a convolution among their ancestors; a shape carries no values."""
    late: set[Node] = set()
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        below = any(_source(node, n).get_node() in late for n in range(node.get_input_size()))
        if kind in _CONVOLUTIONS or (below and kind != "ShapeOf"):
            late.add(node)
    return late


def _entering(model: Model, late: set[Node]) -> list[tuple[Output, list[Any]]]:
    """Tensors computed before any convolution that one convolves, with those that do."""
    found: dict[tuple[str, int], tuple[Output, list[Any]]] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _CONVOLUTIONS:
            continue
        tensor = _source(node, 0)
        above = tensor.get_node()
        if above in late or above.get_type_name() in _SOURCES:
            continue
        key = (above.get_friendly_name(), tensor.get_index())
        found.setdefault(key, (tensor, []))[1].append(node.input(0))
    return list(found.values())


def _parameters(results: list[Node]) -> list[Any]:
    """The inputs that the results depend on."""
    seen: set[Node] = set()
    waiting = list(results)
    found = []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.get_type_name() == "Parameter":
            found.append(node)
        waiting += [_source(node, n).get_node() for n in range(node.get_input_size())]
    return found


def _source(node: Node, number: int) -> Output:
    return node.input(number).get_source_output()
