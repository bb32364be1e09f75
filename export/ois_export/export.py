"""`ois export`: checkpoint -> a folder of engines, all of it or nothing.

Everything happens in a hidden folder beside the output: graphs, lint, manifest, parity gate.
Only when all passed does it take the output's place, in one rename.
"""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import onnx

from ois_client.contract.geometry import PREPROCESS_VERSION
from ois_export.graphs.lint import check
from ois_export.graphs.precision import Precision, typed
from ois_export.graphs.trace import export_graphs
from ois_export.parity.comparison import Limits, Progress
from ois_export.parity.network_gate import run_gate
from ois_export.parity.reference import open_reference
from ois_export.publish import check_output, publish, staging
from ois_export.repository import write_repository
from ois_export.targets import Target
from ois_export.tensorrt.adapt import for_tensorrt
from ois_export.tensorrt.rules import rules_for
from ois_network.checkpoints.checkpoint import Checkpoint, load_checkpoint
from ois_network.split import Rewrites
from ois_runtime.engines.manifest import EngineFile, Manifest, TensorSpec

_RECORDED = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "ois-deploy")


def export_engines(
    checkpoint_path: Path,
    output: Path,
    *,
    target: Target = Target.CPU,
    precision: str = "fp32",
    cached_kv: bool = False,
    limits: Limits | None = None,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Write `output`: encoder.onnx, decoder.onnx and manifest.json, proven and complete, and
    the model repository that serves them.

    The gate runs the graphs on this machine's CPU whatever the target is; what a GPU makes of
    them is checked where the GPU is, by `ois build`.

    `cached_kv` keeps the projected keys and values in the image state: a click computes less
    and an image takes about twice the memory.

    Raises `CheckpointError` for a wrong file, `InvalidInput` for an impossible combination,
    `UnsupportedGraph` and `ParityError` when the engines are not right, `OutputError` when
    they cannot be written. In every such case `output` is as it was before.
    """
    target.check(precision)
    check_output(output)
    progress(f"loading {checkpoint_path}")
    checkpoint = load_checkpoint(checkpoint_path)
    with staging(output) as folder:
        manifest = write_engines(
            checkpoint,
            folder,
            name=output.name,
            target=target,
            precision=precision,
            cached_kv=cached_kv,
            progress=progress,
        )
        with open_reference(folder) as engines:
            parity = run_gate(
                checkpoint.network,
                engines,
                limits=limits or Limits.of(Precision.parse(precision)),
                progress=progress,
            )
        manifest = with_parity(manifest, parity)
        manifest.save(folder)
        if precision != Precision.BF16:  # ONNX Runtime, which would serve these files, has none
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
    progress: Progress = lambda _: None,
) -> Manifest:
    """Graphs, lint and manifest into an existing `folder`, *without* the parity gate.

    For benchmarks of random weights and for tests of the gate itself; `export_engines` is
    what users get.
    """
    rewrites = Rewrites(cached_kv=cached_kv).effective(checkpoint.config)
    attention = target.attention(precision)
    progress("exporting graphs")
    paths = export_graphs(
        checkpoint.network,
        folder,
        attention=attention,
        rewrites=rewrites,
        form=target.form(precision),
    )
    if target is not Target.CPU:
        progress(f"typing graphs for {target} in {precision}")
        for path in paths.values():
            _rewrite(path, target, Precision.parse(precision))
    progress("linting graphs")
    engines = {role: describe_graph(path, target) for role, path in paths.items()}
    manifest = Manifest(
        name=name,
        target=target.value,
        precision=precision,
        network=checkpoint.config.to_dict(),
        trained=checkpoint.trained,
        checkpoint_sha256=checkpoint.sha256,
        longest=checkpoint.config.longest,
        patch=checkpoint.config.patch,
        position_table=checkpoint.config.position_table,
        preprocess_version=PREPROCESS_VERSION,
        opset=target.form(precision).opset,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        encoder=engines["encoder"],
        decoder=engines["decoder"],
        options={
            "cached_kv": rewrites.cached_kv,
            "masked_logit": attention.masked_logit,
            "attention": type(attention).__name__,
        },
    )
    manifest.save(folder)
    return manifest


def _rewrite(path: Path, target: Target, precision: Precision) -> None:
    model = onnx.load(str(path))
    if target is Target.TENSORRT:
        model = for_tensorrt(model)
    onnx.save(typed(model, precision), str(path))


def with_parity(manifest: Manifest, parity: dict[str, object]) -> Manifest:
    data = manifest.to_dict()
    data["parity"] = parity
    return Manifest.from_dict(data)


def describe_graph(path: Path, target: Target) -> EngineFile:
    """Lint a graph and record its signature."""
    model = check(path, rules_for(target))

    def specs(values: object) -> list[TensorSpec]:
        return [_spec(value) for value in values]  # type: ignore[attr-defined]

    return EngineFile.of(path, specs(model.graph.input), specs(model.graph.output))


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
