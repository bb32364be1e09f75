"""Builds one TensorRT plan from one ONNX graph, and checks the precision of what was built.

A plan is TensorRT's name for a serialised engine. Uses the API of TensorRT 11, and of 10 from
10.12 on.

TensorRT builds an fp32 engine from an fp32 graph, whatever the user asked for (roboflow/rf-detr
1453: an "fp16" engine without one fp16 layer). So the types that were built are read from the
engine inspector's JSON.
"""

from __future__ import annotations

import json
import shlex
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ois_client.contract.errors import ExportError, UnsupportedGraph
from ois_client.contract.files import write_file
from ois_export.parity.comparison import Progress
from ois_export.tensorrt.profiles import Profile, Shape
from ois_runtime.engines.backends import Precision

#: The inspector's names of types. 10.x: within a layout ("Row major linear FP32"); 11.x: alone.
_TYPE_NAMES = {
    Precision.FP32: ("FP32", "FLOAT"),
    Precision.FP16: ("FP16", "HALF"),
    Precision.BF16: ("BF16", "BFLOAT16"),
}
#: Layers that only move data: they say nothing about the precision of multiplications.
_DATA_MOVEMENT = {"Reformat", "Cast", "NoOp", "Shape", "Constant", "Shuffle", "Slice", "Gather"}
#: The smallest share of half layers in a half engine. It is low because fp32 islands stay many
#: layers, depending on fusion. An engine that ignores its graph's types has no half layers at all.
SMALLEST_HALF_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How engines are built.

    workspace_bytes: scratch memory that a kernel may use; None is TensorRT's default.
    optimization_level: 0 (fast build) to 5 (slow build); None is TensorRT's default, 3.
    timing_cache: file of kernel timings from earlier builds; read if it exists, then updated.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None


def build_plan(
    trt: Any, graph: Path, profiles: list[Profile], options: BuildOptions, progress: Progress
) -> bytes:
    """Build one engine and return its plan.

    trt: the module `tensorrt`.
    The precision is that of the graph: TensorRT 11 has no precision flags, and on 10 the network
    is strongly typed. TF32 is off, because its products have 10 bits.
    Raises `UnsupportedGraph` if TensorRT cannot parse the graph, `ExportError` if it cannot build
    the engine, `OutputError` if the timing cache cannot be written.
    """
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        errors = [parser.get_error(n) for n in range(parser.num_errors)]
        raise UnsupportedGraph(
            f"TensorRT {trt.__version__} cannot parse {graph.name}:\n  "
            + "\n  ".join(f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors[:10])
        )
    allow_decomposition(trt, network)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    # Without it the inspector reports no types, and `check_precision` could not check them.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    for profile in profiles:
        _add_profile(builder, config, profile, graph)
    _use_timing_cache(config, options.timing_cache)
    monitor = _monitor(trt, graph.stem, progress)  # must outlive the build
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(
            f"TensorRT {trt.__version__} could not build an engine from {graph.name}: "
            + ("; ".join(logger.errors[-3:]) or "it gave no reason")
        )
    if options.timing_cache is not None:
        _save_timing_cache(config, options.timing_cache)
    return bytes(memoryview(plan))


def allow_decomposition(trt: Any, network: Any) -> int:
    """Let TensorRT compute attentions with several kernels where it has no fused one.

    By default the build then fails. Returns how many attentions there are; none before TensorRT
    10.14, which parses them into other layers.
    """
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    count = 0
    for index in range(network.num_layers if kind is not None else 0):
        layer = network.get_layer(index)
        if layer.type == kind:
            # The documented way to a layer's own members: the bindings return the base class.
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True
            count += 1
    return count


def _add_profile(builder: Any, config: Any, profile: Profile, graph: Path) -> None:
    ranges = builder.create_optimization_profile()
    for name, (lowest, best, highest) in profile.inputs.items():
        ranges.set_shape(name, lowest, best, highest)
    if config.add_optimization_profile(ranges) < 0:
        raise ExportError(f"TensorRT rejects the profile {profile.name!r} of {graph.name}")


def _use_timing_cache(config: Any, path: Path | None) -> None:
    """Load the timing cache; start an empty one if it is missing or TensorRT rejects it."""
    try:
        saved = path.read_bytes() if path is not None else b""
    except OSError:
        saved = b""
    for data in (saved, b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _save_timing_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: two builds may write it at once.
    write_file(path, bytes(memoryview(cache.serialize())))


def _logger(trt: Any) -> Any:
    class Errors(trt.ILogger):
        """Keeps the messages of errors and drops the rest."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg)

    return Errors()


def _monitor(trt: Any, name: str, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Reports the progress of the outermost phases. TensorRT calls it from several threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._steps: dict[str, int] = {}
            self._reported: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                if parent_phase is None:
                    self._steps[phase_name] = num_steps
                    progress(f"{name}: {phase_name}")

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                steps = self._steps.get(phase_name, 0)
                percent = 100 * (step + 1) // steps if steps > 1 else 0
                if percent >= self._reported.get(phase_name, 0) + 10:
                    self._reported[phase_name] = percent
                    progress(f"{name}: {phase_name} {percent} %")
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._steps.pop(phase_name, None)

    return Monitor()


def built_types(information: str) -> Counter[Precision]:
    """Count the computing layers by the lowest precision among their inputs and outputs.

    information: JSON from `EngineInspector.get_engine_information`, of an engine built with
    detailed profiling verbosity. Raises `ExportError` if it contains no types.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise ExportError(
            "the engine inspector gave no JSON with layers; expected the format of TensorRT 10.12 "
            "to 11.4. Build with one of these versions"
        ) from None
    found: Counter[Precision] = Counter()
    for layer in layers:
        if not isinstance(layer, dict):  # only a name: the profiling verbosity was too low
            continue
        if layer.get("LayerType") in _DATA_MOVEMENT:
            continue
        tensors = [*layer.get("Inputs", []), *layer.get("Outputs", [])]
        types = {kind for tensor in tensors if (kind := _type(tensor)) is not None}
        for precision in (Precision.FP16, Precision.BF16, Precision.FP32):
            if precision in types:
                found[precision] += 1
                break
    if not found:
        raise ExportError(
            "the engine inspector reported no layer types, so the precision of the engine is "
            "unknown; expected an engine built with detailed profiling verbosity"
        )
    return found


def check_precision(information: str, wanted: Precision, engine: str) -> dict[str, int]:
    """Return the number of computing layers by precision.

    Raises `ExportError` if the engine was not built in `wanted`.
    """
    found = built_types(information)
    half = sum(count for precision, count in found.items() if precision is not Precision.FP32)
    counts = {precision.value: count for precision, count in found.items()}
    shown = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    if wanted is Precision.FP32:
        wrong = half > 0
    else:
        enough = found[wanted] >= SMALLEST_HALF_SHARE * found.total()
        wrong = not enough or found[wanted] != half
    if wrong:
        raise ExportError(
            f"TensorRT did not build {engine} in {wanted}: its computing layers are {shown}. "
            "Nothing was written"
        )
    return counts


def _type(tensor: Any) -> Precision | None:
    """The precision of one tensor of a layer; None for integers and unknown types."""
    if not isinstance(tensor, dict):
        return None
    text = str(tensor.get("DataType") or tensor.get("Format/Datatype") or "").upper()
    words = text.replace("/", " ").split()
    for precision, names in _TYPE_NAMES.items():
        if any(name in words for name in names):
            return precision
    return None


def trtexec_command(
    graph: Path, plan: Path, profiles: list[Profile], *, workspace_bytes: int | None
) -> str:
    """Return a shell command that builds the same plan with `trtexec`.

    It does not run the gate and writes no manifest.
    """
    words = [
        "trtexec",
        f"--onnx={graph}",
        f"--saveEngine={plan}",
        "--stronglyTyped",
        "--noTF32",
        "--profilingVerbosity=detailed",
        "--skipInference",
    ]
    if workspace_bytes is not None:
        words.append(f"--memPoolSize=workspace:{workspace_bytes // 2**20}")
    for number, profile in enumerate(profiles):
        if len(profiles) > 1:
            words.append(f"--profile={number}")
        for place, option in enumerate(("minShapes", "optShapes", "maxShapes")):
            shapes = ",".join(
                f"{name}:{_text(ranges[place])}" for name, ranges in profile.inputs.items()
            )
            words.append(f"--{option}={shapes}")
    return " \\\n  ".join(shlex.quote(word) for word in words)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
