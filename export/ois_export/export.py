"""`ois export`: write a checkpoint's engines to a folder, or leave the folder unchanged.

Graphs, manifest and model repository are written to a hidden folder beside the output. It is
renamed to the output after the lint and the parity gate have passed.
"""

from __future__ import annotations

import dataclasses
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import onnx

from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import PREPROCESS_VERSION
from ois_export.graphs.lint import check
from ois_export.graphs.precision import typed
from ois_export.graphs.trace import export_graphs
from ois_export.int8.options import Int8Options, require_packages
from ois_export.parity.comparison import Limits, Progress
from ois_export.parity.network_gate import run_gate
from ois_export.parity.reference import open_reference, require_onnx_runtime
from ois_export.publish import check_output, publish, staging
from ois_export.region.parts import fitted_coarse, gated, region_parts
from ois_export.repository import write_repository
from ois_export.targets import Target
from ois_network.checkpoints.checkpoint import Checkpoint, load_checkpoint
from ois_network.region import CoarseHead
from ois_network.split import Rewrites
from ois_runtime.engines.backends import Precision
from ois_runtime.engines.manifest import EngineFile, Manifest, TensorSpec

_RECORDED = (
    *("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy", "ois-deploy"),
)


def export_engines(
    checkpoint_path: Path,
    output: Path,
    *,
    target: Target = Target.CPU,
    precision: str = "fp32",
    cached_kv: bool = False,
    region: bool = False,
    limits: Limits | None = None,
    int8: Int8Options | None = None,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Export a checkpoint: write graphs, a manifest and a model repository to `output`.

    The parity gate runs the graphs on this machine's CPU for every target. `ois build` compares
    the engines that a GPU runs, on the machine with the GPU.

    cached_kv: keep the projected keys and values in the image state. A click then computes less,
    and an image takes about twice the memory.
    region: also write the decoder in parts, so that clicks can decode a region, and run the gate
    that decides whether they do (`ois_export.region`). Only for the target cpu, and only if the
    network is trained: otherwise there are no masks to compare.
    limits: how far the engines may differ from the network; default `Limits.of(precision)`.
    int8: with the precision int8, which graphs are quantised and on which pictures.

    In int8 the fp32 graphs are compared with the network first. Then they are quantised, layer by
    layer as far as the robot user's masks allow (`ois_export.int8`), and the manifest records what
    was measured.

    Raises `CheckpointError` if the file is not a checkpoint, `InvalidInput` if the target does
    not support the precision, `UnsupportedGraph` or `ParityError` if the engines are not correct,
    `OutputError` if they cannot be written, `EngineError` if ONNX Runtime is missing. `output` is
    then unchanged.
    """
    require_onnx_runtime()
    chosen = Precision.parse(precision)
    target.check(chosen)
    if region and target is not Target.CPU:
        raise InvalidInput(f"got regions for the target {target}; engines of cpu decode them")
    if chosen is Precision.INT8:
        require_packages()
    check_output(output)
    progress(f"loading {checkpoint_path}")
    checkpoint = load_checkpoint(checkpoint_path)
    if region and not checkpoint.trained:
        progress("clicks will decode the whole image, because the network is untrained")
        region = False
    with staging(output) as folder:
        coarse = fitted_coarse(checkpoint, progress) if region else None
        manifest = _write_graphs(
            checkpoint, folder, output.name, target, chosen, cached_kv, progress, coarse
        )
        with open_reference(folder, manifest) as engines:
            parity = run_gate(
                checkpoint.network,
                engines,
                limits=limits or Limits.of(_traced(chosen)),
                progress=progress,
            )
        manifest = dataclasses.replace(manifest, parity=parity)
        if chosen is Precision.INT8:
            manifest = _quantised(folder, manifest, int8 or Int8Options(), progress)
        if manifest.region is not None:
            manifest = gated(manifest, folder, progress)
        manifest.save(folder)
        if chosen is not Precision.BF16:  # ONNX Runtime, which would serve these files, lacks bf16
            write_repository(folder, manifest)
        progress(f"writing {output}")
        publish(folder, output)
    return manifest


def write_engines(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    name: str,
    target: Target = Target.CPU,
    precision: str = "fp32",
    cached_kv: bool = False,
    region: bool = False,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Write linted graphs and a manifest into an existing `folder`, *without* the parity gate.

    For benchmarks of random weights and for tests of the gate itself. Users call
    `export_engines`. region: also the decoder in parts; a trained network's pass the gate of
    regions or are not accepted, and an untrained network has a coarse map of zeros.
    """
    chosen = Precision.parse(precision)
    coarse = None
    if region and checkpoint.trained:
        coarse = fitted_coarse(checkpoint, progress)
    elif region:
        coarse = CoarseHead(checkpoint.config.head_features), 0.0
    manifest = _write_graphs(checkpoint, folder, name, target, chosen, cached_kv, progress, coarse)
    if chosen is Precision.INT8:
        manifest = _quantised(folder, manifest, Int8Options(), progress, gated=False)
    if region and checkpoint.trained:
        manifest = gated(manifest, folder, progress)
    manifest.save(folder)
    return manifest


def _write_graphs(
    checkpoint: Checkpoint,
    folder: Path,
    name: str,
    target: Target,
    precision: Precision,
    cached_kv: bool,
    progress: Progress,
    coarse: tuple[CoarseHead, float] | None,
) -> Manifest:
    """Write and lint the graphs. Returns the manifest that describes them, not yet written.

    coarse: the coarse map and its threshold, to decode regions.
    """
    few = target is Target.CPU  # elsewhere, one size of the prompts is worth more
    rewrites = Rewrites(cached_kv=cached_kv, few_slots=few, project_tokens=few)
    rewrites = rewrites.effective(checkpoint.config)
    attention = target.attention(precision)
    form = target.form(precision)
    progress("exporting graphs")
    paths = export_graphs(
        checkpoint.network,
        folder,
        attention=attention,
        rewrites=rewrites,
        form=form,
        coarse=None if coarse is None else coarse[0],
    )
    if target is not Target.CPU:
        progress(f"typing graphs for {target} in {precision}")
        for path in paths.values():
            _convert_graph(path, target, precision)
    progress("linting graphs")
    engines = {role: describe_graph(path, target) for role, path in paths.items()}
    return Manifest(
        coverage_scale=checkpoint.config.coverage_scale,
        name=name,
        target=target.value,
        precision=_traced(precision).value,
        network=checkpoint.config.to_dict(),
        trained=checkpoint.trained,
        checkpoint_sha256=checkpoint.sha256,
        longest=checkpoint.config.longest,
        patch=checkpoint.config.patch,
        position_table=checkpoint.config.position_table,
        preprocess_version=PREPROCESS_VERSION,
        opset=form.opset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        encoder=engines["encoder"],
        decoder=engines["decoder"],
        region=None if coarse is None else region_parts(checkpoint.config, engines, *coarse),
        options={
            "cached_kv": rewrites.cached_kv,
            "masked_logit": attention.masked_logit,
            "attention": type(attention).__name__,
        },
    )


def _traced(precision: Precision) -> Precision:
    """The precision of the graphs before they are quantised."""
    return Precision.FP32 if precision is Precision.INT8 else precision


def _quantised(
    folder: Path,
    manifest: Manifest,
    options: Int8Options,
    progress: Progress,
    *,
    gated: bool = True,
) -> Manifest:
    """Quantise and lint the graphs in `folder`; return their new manifest, not yet written."""
    from ois_export.int8.engines import quantise_engines  # it loads SciPy and the quantiser

    manifest = quantise_engines(folder, manifest, options, gated=gated, progress=progress)
    for engine in manifest.files:
        check(folder / engine.file, Target.CPU.rules())
    return manifest


def _convert_graph(path: Path, target: Target, precision: Precision) -> None:
    """Convert the fp32 graph at `path` to what the target needs, in its precision."""
    model = onnx.load(str(path))
    if target is Target.TENSORRT:
        from ois_export.tensorrt.adapt import for_tensorrt

        model = for_tensorrt(model)
    onnx.save(typed(model, precision), str(path))


def describe_graph(path: Path, target: Target) -> EngineFile:
    """Lint the graph at `path` and describe the file, its inputs and its outputs.

    Raises `UnsupportedGraph` if the graph breaks a rule of the target.
    """
    graph = check(path, target.rules()).graph
    return EngineFile.of(path, list(map(_spec, graph.input)), list(map(_spec, graph.output)))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim
    )
    return TensorSpec(value.name, dtype, shape)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _RECORDED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
