"""ONNX graph -> TensorRT plan, through the API of TensorRT 11 and of 10 from 10.12 on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ois_client.contract.errors import ExportError, OutputError, UnsupportedGraph
from ois_export.tensorrt.profiles import Profile

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How engines are built.

    workspace_bytes: what a kernel may use while it runs; None leaves the choice to TensorRT.
    optimization_level: 0 (quick to build) to 5 (slow to build); None is TensorRT's own, 3.
    timing_cache: measured kernels of earlier builds; read if it is there, written afterwards.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None


def build_plan(
    trt: Any, graph: Path, profiles: list[Profile], options: BuildOptions, progress: Progress
) -> bytes:
    """Build one engine and return its plan.

    The graph is typed, so no precision is asked for: TensorRT 11 has no flags for it, and on 10
    the network is created strongly typed. TF32 is off, or fp32 would be 10 bits.
    Raises `UnsupportedGraph` when TensorRT cannot parse the graph, `ExportError` when no engine
    comes out.
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
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    # Else the inspector knows no types, and the precision that was built could not be checked.
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
            f"TensorRT {trt.__version__} built no engine from {graph.name}: "
            + ("; ".join(logger.errors[-3:]) or "it gave no reason")
        )
    if options.timing_cache is not None:
        _keep(config, options.timing_cache)
    return bytes(memoryview(plan))


def _add_profile(builder: Any, config: Any, profile: Profile, graph: Path) -> None:
    ranges = builder.create_optimization_profile()
    for name, (lowest, best, highest) in profile.inputs.items():
        ranges.set_shape(name, lowest, best, highest)
    if config.add_optimization_profile(ranges) < 0:
        raise ExportError(f"TensorRT refuses the profile {profile.name!r} of {graph.name}")


def _use_timing_cache(config: Any, path: Path | None) -> None:
    """Start from the kernels measured before, or from none when TensorRT refuses the file."""
    try:
        kept = path.read_bytes() if path is not None else b""
    except OSError:
        kept = b""
    for data in (kept, b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _keep(config: Any, path: Path) -> None:
    """Write the timing cache in one step, so that two builds at once leave one whole file."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    data = bytes(memoryview(cache.serialize()))
    scratch = path.with_name(f".{path.name}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(data)
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OutputError(f"the timing cache {path} cannot be written: {error}") from error


def _logger(trt: Any) -> Any:
    class Errors(trt.ILogger):
        """Keeps what TensorRT says when it fails; the rest is for TensorRT's developers."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg)

    return Errors()


def _monitor(trt: Any, name: str, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Says how far the outermost phases are. TensorRT calls it from several threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._steps: dict[str, int] = {}
            self._said: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                if parent_phase is None:
                    self._steps[phase_name] = num_steps
                    progress(f"{name}: {phase_name}")

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                steps = self._steps.get(phase_name, 0)
                percent = 100 * (step + 1) // steps if steps > 1 else 0
                if percent >= self._said.get(phase_name, 0) + 10:
                    self._said[phase_name] = percent
                    progress(f"{name}: {phase_name} {percent} %")
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._steps.pop(phase_name, None)

    return Monitor()
