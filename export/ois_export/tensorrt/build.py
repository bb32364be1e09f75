"""`ois build`: builds TensorRT engines from exported graphs, for this machine's GPU.

    <plans>/<GPU>-sm<NN>-tensorrt<version>-<model>/
        encoder.plan  decoder.plan  manifest.json  repository/

A plan is TensorRT's name for a serialised engine. The folder is written only if the engines have
the expected precision and pass the parity gate. *Not run on a GPU yet.*
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ois_client.contract.errors import InvalidInput
from ois_export.parity.comparison import Limits, Progress
from ois_export.parity.plan_gate import run_plan_gate
from ois_export.parity.reference import open_reference, require_onnx_runtime
from ois_export.publish import check_output, publish, staging
from ois_export.repository import WARM_UP, write_repository
from ois_export.tensorrt.plan import (
    BuildOptions,
    build_plan,
    check_precision,
    trtexec_command,
)
from ois_export.tensorrt.profiles import (
    DEFAULT_OBJECTS,
    DEFAULT_SHAPES,
    Objects,
    Profile,
    Shapes,
    decoder_profiles,
    encoder_profiles,
    points,
    warm_up_requests,
)
from ois_runtime.engines.backends import Precision
from ois_runtime.engines.manifest import EngineFile, Manifest
from ois_runtime.engines.pair import GraphPair
from ois_runtime.gpu_driver import Gpu
from ois_runtime.tensorrt.engine import PlanGraph
from ois_runtime.tensorrt.library import (
    library_version,
    load_tensorrt,
    machine_key,
    plan_key,
)
from ois_runtime.tensorrt.memory import CudaMemory, DeviceMemory


@dataclass(frozen=True, slots=True)
class Ranges:
    """The image shapes and numbers of objects to build for, as text (see `profiles.py`)."""

    shapes: tuple[str, ...] = DEFAULT_SHAPES
    objects: tuple[str, ...] = DEFAULT_OBJECTS


def build_engines(
    engines: Path,
    plans: Path,
    *,
    ranges: Ranges | None = None,
    options: BuildOptions | None = None,
    limits: Limits | None = None,
    rebuild: bool = False,
    progress: Progress = lambda _: None,
) -> Path:
    """Build the graphs in `engines` into a new folder inside `plans`, and return that folder.

    rebuild: build even if the folder exists; otherwise existing engines are kept.

    Raises `EngineError` if the driver, the GPU, TensorRT, ONNX Runtime or the graphs are missing or
    do not fit, `InvalidInput` if the ranges are invalid, `ExportError` (`UnsupportedGraph`,
    `ParityError`) if the engines are not correct. Nothing is written then.
    """
    manifest = read_source(engines)
    library, gpu = load_tensorrt()
    require_onnx_runtime()  # before minutes of building: the gate needs it
    return build_with(
        library,
        gpu,
        CudaMemory,
        engines,
        manifest,
        plans,
        ranges=ranges or Ranges(),
        options=options or BuildOptions(),
        limits=limits,
        rebuild=rebuild,
        progress=progress,
    )


def read_source(engines: Path) -> Manifest:
    """Load the manifest of graphs for TensorRT.

    Raises `EngineError` if there is none, `InvalidInput` if the graphs are for another target.
    """
    manifest = Manifest.load(engines)
    if manifest.target != "tensorrt" or not manifest.encoder.file.endswith(".onnx"):
        raise InvalidInput(
            f"{engines} holds engines for {manifest.target}; expected graphs for TensorRT. Make "
            "them with: ois export CHECKPOINT --target tensorrt --precision fp16"
        )
    return manifest


def build_with(
    library: Any,
    gpu: Gpu,
    open_memory: Callable[[], DeviceMemory],
    engines: Path,
    manifest: Manifest,
    plans: Path,
    *,
    ranges: Ranges,
    options: BuildOptions,
    limits: Limits | None,
    rebuild: bool,
    progress: Progress,
) -> Path:
    """Build as `build_engines` does, with this TensorRT (`library`), GPU and memory."""
    profiles, where = plan_profiles(manifest, ranges)
    version = library_version(library)
    output = plans / plan_key(gpu, version, manifest.model_sha256)
    if not rebuild and (output / "manifest.json").is_file():
        progress(f"{output} exists already")
        return output
    check_output(output)
    machine = machine_key(gpu, version)
    options = dataclasses.replace(
        options, timing_cache=options.timing_cache or plans / f"{machine}.timing-cache"
    )
    precision = Precision.parse(manifest.precision)
    with staging(output) as folder:
        graphs, layers = {}, {}
        for role, engine in (("encoder", manifest.encoder), ("decoder", manifest.decoder)):
            path = folder / f"{role}.plan"
            progress(f"{role}: building {len(profiles[role])} profile(s) for {gpu.name}")
            path.write_bytes(
                build_plan(library, engines / engine.file, profiles[role], options, progress)
            )
            graphs[role] = PlanGraph(path, library, open_memory())
            layers[role] = check_precision(graphs[role].describe_layers(), precision, path.name)
        description = f"tensorrt {version} {precision} on {gpu.name}"
        built = _manifest(manifest, folder, version, gpu, profiles, layers)
        pair = GraphPair(built, description, graphs["encoder"], graphs["decoder"])
        if limits is None:
            limits = Limits.of(precision)
            if not manifest.trained and precision is not Precision.FP32:
                limits = limits.of_random_weights()
        with open_reference(engines) as onnx:
            parity = run_plan_gate(pair, onnx, where, limits=limits, progress=progress)
        built = dataclasses.replace(built, parity=parity)
        built.save(folder)
        write_repository(folder, built)
        progress(f"writing {output}")
        publish(folder, output)
    return output


def plan_profiles(
    manifest: Manifest, ranges: Ranges
) -> tuple[dict[str, list[Profile]], list[tuple[tuple[int, int], int]]]:
    """Return the profiles by role, and the points (patch grid, N) for the parity gate.

    Raises `InvalidInput` if a range is invalid.
    """
    if not ranges.shapes or not ranges.objects:
        raise InvalidInput(
            "got no shapes or no objects to build for; expected at least one of each"
        )
    shapes = [Shapes.parse(text, manifest) for text in ranges.shapes]
    objects = [Objects.parse(text) for text in ranges.objects]
    profiles = {
        "encoder": encoder_profiles(manifest, shapes),
        "decoder": decoder_profiles(manifest, shapes, objects),
    }
    return profiles, points(shapes, objects)


def trtexec_commands(engines: Path, plans: Path, ranges: Ranges, options: BuildOptions) -> str:
    """Return shell commands that build the same engines. Needs neither a GPU nor TensorRT."""
    manifest = read_source(engines)
    profiles, _ = plan_profiles(manifest, ranges)
    return "\n".join(
        trtexec_command(
            engines / engine.file,
            plans / f"{role}.plan",
            profiles[role],
            workspace_bytes=options.workspace_bytes,
        )
        for role, engine in (("encoder", manifest.encoder), ("decoder", manifest.decoder))
    )


def _manifest(
    source: Manifest,
    folder: Path,
    version: str,
    gpu: Gpu,
    profiles: dict[str, list[Profile]],
    layers: dict[str, dict[str, int]],
) -> Manifest:
    """The manifest of the plans: that of the graphs, with the plans' files and options."""
    options = {
        **source.options,
        "gpu": gpu.name,
        "sm": gpu.sm,
        "graphs_sha256": source.model_sha256,
        "layers": layers,
        "profiles": {role: [p.name for p in listed] for role, listed in profiles.items()},
        WARM_UP: {
            "encoder": warm_up_requests(source.encoder, profiles["encoder"]),
            "decoder": warm_up_requests(source.decoder, profiles["decoder"]),
        },
    }
    driver = ".".join(map(str, gpu.driver_cuda))
    return dataclasses.replace(
        source,
        encoder=_plan_file(folder / "encoder.plan", source.encoder),
        decoder=_plan_file(folder / "decoder.plan", source.decoder),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={**source.versions, "tensorrt": version, "driver_cuda": driver},
        options=options,
        parity={},
    )


def _plan_file(path: Path, graph: EngineFile) -> EngineFile:
    return EngineFile.of(path, graph.inputs, graph.outputs)
