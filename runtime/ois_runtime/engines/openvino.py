"""OpenVINO on the CPU: the fastest CPU backend if the processor has bfloat16 instructions.

bfloat16 has eight significant bits. That is enough for the ViT and the DPT decoder, but not for
the arithmetic of clicks: a pixel coordinate of 443 becomes 444, a Fourier phase of a few hundred
radians becomes noise, and the masks of a trained network fall to an IoU of 0.3. So a bf16 engine
is cut into parts. Everything before the first convolution (clicks, order maps, both attentions,
positions) runs in fp32, and so does what follows the last one if it uses clicks again
(`keep_clicks`); the rest runs in bf16:

    front, fp32    the outputs that depend on no convolution, and the tensors that enter one
    back, bf16     the other outputs, or the tensors that the tail needs
    tail, fp32     the outputs behind the last convolution, if they need the clicks as well

In int8 the layers that the export quantised run in eight bits, and the rest as in bf16 if this CPU
has it, else in fp32.

The parts of a decoder that never see the clicks (`region`) are not cut. The one that decodes a crop
is compiled for each size of crop: only with fixed sizes does OpenVINO (2026.4) see that a map whose
channels come last is already laid out as its convolutions want it, which saves a quarter of the
time. Compiling takes 30 ms, as long as the first run of a new size with free sizes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import Model, Node, Output, opset13

from ois_client.contract.errors import EngineError
from ois_runtime.engines.backends import EngineOptions, Precision
from ois_runtime.engines.pair import Arrays
from ois_runtime.engines.signal_stack import signal_stack_kept

_CONVOLUTIONS = {"Convolution", "ConvolutionBackpropData", "GroupConvolution"}
#: What stands between a FakeQuantize and the convolution that it is for.
_DEQUANTISING = {"Convert", "Subtract", "Multiply"}
_SOURCES = {"Constant", "Parameter"}
_CLICKS = ("points", "labels")
#: Inputs of which a graph makes coordinates. Without any, the whole graph runs in bf16.
_PLACES = {"points", "pos_rows"}
#: An input of the graph that decodes a crop.
_CROP = {"rows8"}
#: How many sizes of crop stay compiled, and how many of them keep their buffers.
_MOST_SIZES, _MOST_BUFFERS = 32, 4
#: OpenVINO's names for the precisions.
_HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16"}


def describe(options: EngineOptions) -> str:
    precision = str(options.precision)
    if options.precision is Precision.INT8:
        precision += f"+{_rest(options.precision)}"
    return f"openvino {openvino.__version__.split('-')[0]} {precision}"


def _rest(precision: Precision) -> Precision:
    """The precision of what is not quantised."""
    if precision is not Precision.INT8:
        return precision
    return Precision.BF16 if native_bf16() else Precision.FP32


def native_bf16() -> bool:
    """Whether this CPU computes in bfloat16 natively (AVX512_BF16 or AMX)."""
    with signal_stack_kept():
        return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_graph(path: Path, options: EngineOptions) -> OpenVinoGraph:
    return OpenVinoGraph(path, options)


class OpenVinoGraph:
    """One ONNX file compiled for this CPU; in bf16 as two parts, see the module's docstring."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        """Raises `EngineError` if the file cannot be compiled or this CPU has no bf16."""
        if options.precision is Precision.BF16 and not native_bf16():
            raise EngineError(
                "this CPU has no native bfloat16 (AVX512_BF16 or AMX); use precision fp32, or "
                "the backend onnxruntime"
            )
        self._path = path
        try:
            with signal_stack_kept():
                self._load(path, options)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {openvino.__version__} cannot load {path}: {error}"
            ) from error

    def _load(self, path: Path, options: EngineOptions) -> None:
        core = openvino.Core()
        rest = _rest(options.precision)
        model = core.read_model(str(path))
        self.inputs = tuple(port.get_any_name() for port in model.inputs)
        self.outputs = tuple(result_name(result) for result in model.get_results())
        if rest is Precision.BF16 and _PLACES.intersection(self.inputs):
            front, back, *tail = split(model, lambda: core.read_model(str(path)))
            halves = [(front, Precision.FP32), (back, Precision.BF16)]
            halves += [(part, Precision.FP32) for part in tail]
        else:
            halves = [(model, rest)]
        kind = _FixedPart if _CROP.intersection(self.inputs) else _Part
        self._parts = [
            kind(core, half, precision, options) for half, precision in halves if half.get_results()
        ]

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        known = dict(feeds)
        try:
            with signal_stack_kept():
                for part in self._parts:
                    known.update(part.run(known))
        except RuntimeError as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise EngineError(f"{self._path.name} failed on {shapes}: {error}") from error
        return {name: known[name] for name in self.outputs}


class _Part:
    """A compiled model and the names of its inputs and results."""

    def __init__(
        self,
        core: openvino.Core,
        model: openvino.Model,
        precision: Precision,
        options: EngineOptions,
    ) -> None:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        if options.compiled_cache is not None:
            settings["CACHE_DIR"] = str(options.compiled_cache)
        self._inputs = [port.get_any_name() for port in model.inputs]
        # A compiled output also has the names of tensors that were fused into it, in no fixed
        # order. Only the result node reliably has the output's own name.
        self._results = [result_name(result) for result in model.get_results()]
        self._core, self._settings = core, settings
        self._compile(model)

    def _compile(self, model: Model) -> None:
        self._compiled = self._core.compile_model(model, "CPU", self._settings)

    def run(self, known: Arrays) -> dict[str, NDArray[np.generic]]:
        return self._run(self._compiled, {name: known[name] for name in self._inputs})

    def _run(
        self, compiled: openvino.CompiledModel, given: Arrays
    ) -> dict[str, NDArray[np.generic]]:
        # A request runs one call at a time and keeps its inputs until the next call. A new one
        # per call takes 0.05 ms, lets threads run in parallel and keeps no evicted state alive.
        request = compiled.create_infer_request()
        # Its outputs need not be copied, because it makes no others.
        answer = request.infer(dict(given), share_inputs=True, share_outputs=True)
        ports = compiled.outputs
        return {name: answer[port] for name, port in zip(self._results, ports, strict=True)}


class _FixedPart(_Part):
    """A model that is compiled again for each set of input shapes; the last ones are kept.

    What a compiled model keeps for its next run grows with its shapes, so only those of the last
    few keep it. The others get it again at their next run.
    """

    def _compile(self, model: Model) -> None:
        self._model = model
        self._lock = Lock()
        self._sizes: OrderedDict[tuple[tuple[int, ...], ...], openvino.CompiledModel]
        self._sizes = OrderedDict()

    def run(self, known: Arrays) -> dict[str, NDArray[np.generic]]:
        given = {name: known[name] for name in self._inputs}
        return self._run(self._of({name: array.shape for name, array in given.items()}), given)

    def _of(self, shapes: Mapping[str, tuple[int, ...]]) -> openvino.CompiledModel:
        key = tuple(shapes.values())
        with self._lock:
            compiled = self._sizes.pop(key, None)
            if compiled is None:
                model = self._model.clone()
                model.reshape({name: list(shape) for name, shape in shapes.items()})
                compiled = self._core.compile_model(model, "CPU", self._settings)
            self._sizes[key] = compiled
            if len(self._sizes) > _MOST_SIZES:
                self._sizes.popitem(last=False)
            if len(self._sizes) > _MOST_BUFFERS:
                list(self._sizes.values())[-_MOST_BUFFERS - 1].release_memory()
        return compiled


def split(front: Model, read: Callable[[], Model]) -> list[Model]:
    """Cut a model into its fp32 part, its bf16 part and, if it needs one, a second fp32 part.

    front: the model, which must not be used again. read: gives another copy of it at every call.
    The results that one part makes for the next are called `cut0`, `cut1` and so on.
    """
    late = _after_convolution(front)
    results = [r for r in front.get_results() if _source(r, 0).get_node() not in late]
    names = [result_name(r) for r in results]
    entering = _entering(front, late)
    results += _as_results([tensor for tensor, _ in entering], 0)
    parts = [Model(results, _parameters(results), "front")]

    back = read()
    _feed(_entering(back, _after_convolution(back)), 0)
    kept = [r for r in back.get_results() if result_name(r) not in names]
    if not _uses_clicks(_behind_convolution(front)):
        return [*parts, Model(kept, _parameters(kept), "back")]
    tail = read()
    after = _behind_convolution(tail)
    first = len(entering)
    behind = _behind_convolution(back)
    left = [r for r in kept if _source(r, 0).get_node() not in behind]
    left += _as_results([tensor for tensor, _ in _crossing(back, behind)], first)
    parts.append(Model(left, _parameters(left), "back"))
    ends = [r for r in tail.get_results() if _source(r, 0).get_node() in after]
    _feed(_crossing(tail, after), first)
    return [*parts, Model(ends, _parameters(ends), "tail")]


def _as_results(tensors: list[Output], first: int) -> list[Node]:
    """Results for tensors, called `cut` and a number from `first` on."""
    results = []
    for number, tensor in enumerate(tensors, first):
        result = opset13.result(tensor)
        result.set_friendly_name(f"cut{number}")
        results.append(result)
    return results


def _feed(tensors: list[tuple[Output, list[Any]]], first: int) -> None:
    """Replace tensors by inputs, called `cut` and a number from `first` on."""
    for number, (tensor, consumers) in enumerate(tensors, first):
        given = opset13.parameter(
            tensor.get_partial_shape(), tensor.get_element_type(), name=f"cut{number}"
        )
        given.output(0).set_names({f"cut{number}"})
        for consumer in consumers:
            consumer.replace_source_output(given.output(0))


def result_name(result: Node) -> str:
    """The graph's name of an output. The output's tensor may have other names too."""
    name: str = result.get_friendly_name().partition("/sink_port_")[0]
    return name


def _after_convolution(model: Model) -> set[Node]:
    """The convolutions and all nodes that depend on the values of one (a shape does not)."""
    late: set[Node] = set()
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        below = any(_source(node, n).get_node() in late for n in range(node.get_input_size()))
        if kind in _CONVOLUTIONS or (below and kind != "ShapeOf"):
            late.add(node)
        if kind in _CONVOLUTIONS:
            late.update(_quantisers(node))
    return late


def _quantisers(convolution: Node) -> list[Node]:
    """The nodes that quantise a convolution's input, from the convolution up.

    They belong to it: without them in the same part, it would not run in eight bits.
    """
    found: list[Node] = []
    node = _source(convolution, 0).get_node()
    while node.get_type_name() in _DEQUANTISING:
        found.append(node)
        node = _source(node, 0).get_node()
    return [*found, node] if node.get_type_name() == "FakeQuantize" else []


def _entering(model: Model, late: set[Node]) -> list[tuple[Output, list[Any]]]:
    """The tensors that enter the first convolutions, each with the inputs that read it."""
    found: dict[tuple[str, int], tuple[Output, list[Any]]] = {}
    for node in model.get_ordered_ops():
        quantiser = node.get_type_name() == "FakeQuantize" and node in late
        if node.get_type_name() not in _CONVOLUTIONS and not quantiser:
            continue
        tensor = _source(node, 0)
        above = tensor.get_node()
        if above in late or above.get_type_name() in _SOURCES:
            continue
        key = (above.get_friendly_name(), tensor.get_index())
        found.setdefault(key, (tensor, []))[1].append(node.input(0))
    return list(found.values())


def _behind_convolution(model: Model) -> set[Node]:
    """The nodes that depend on the values of a convolution, and no convolution on theirs."""
    late = _after_convolution(model)
    early: set[Node] = set()  # a convolution depends on them, or they are one
    for node in reversed(model.get_ordered_ops()):
        below = [c.get_node() for out in node.outputs() for c in out.get_target_inputs()]
        if node.get_type_name() in _CONVOLUTIONS or any(each in early for each in below):
            early.add(node)
    return {node for node in late - early if node.get_type_name() != "Result"}


def _uses_clicks(nodes: set[Node]) -> bool:
    """Whether the nodes need where the clicks are other than through a convolution."""
    waiting = [
        source
        for node in nodes
        for n in range(node.get_input_size())
        if (source := _source(node, n).get_node()) not in nodes
        and source.get_type_name() not in _CONVOLUTIONS
    ]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen or node.get_type_name() in ("ShapeOf", *_CONVOLUTIONS):
            continue
        seen.add(node)
        if node.get_type_name() == "Parameter" and node.get_friendly_name() in _CLICKS:
            return True
        waiting += [_source(node, n).get_node() for n in range(node.get_input_size())]
    return False


def _crossing(model: Model, after: set[Node]) -> list[tuple[Output, list[Any]]]:
    """The tensors that `after` takes from behind a convolution, with the inputs that read them.

    Shapes of such tensors are among them: they would need the convolutions again.
    """
    late = _after_convolution(model)
    needed = set(after)
    for node in reversed(model.get_ordered_ops()):
        below = (c.get_node() for out in node.outputs() for c in out.get_target_inputs())
        if node not in late and any(each in needed for each in below):
            needed.add(node)
    found: dict[tuple[str, int], tuple[Output, list[Any]]] = {}
    for node in model.get_ordered_ops():
        for n in range(node.get_input_size()):
            tensor = _source(node, n)
            above = tensor.get_node()
            shape = above.get_type_name() == "ShapeOf"
            origin = _source(above, 0).get_node() if shape else above
            behind = origin in late and origin not in after and above not in after
            if behind and (node in after or (shape and node in needed)):
                key = (above.get_friendly_name(), tensor.get_index())
                found.setdefault(key, (tensor, []))[1].append(node.input(n))
    return list(found.values())


def _parameters(results: list[Node]) -> list[Any]:
    """The model inputs that the results depend on."""
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
