"""`ois export`: checkpoint -> a folder of engines, all of it or nothing.

Everything happens in a hidden folder beside the output: graphs, lint, manifest, parity gate.
Only when all passed does it take the output's place, in one rename.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import onnx

from ois_client.errors import OutputError
from ois_client.geometry import PREPROCESS_VERSION
from ois_export.graphs import OPSET, export_graphs
from ois_export.lint import check
from ois_export.onnx_attention import ContribAttention
from ois_export.parity import Limits, Progress, run_gate
from ois_export.repository import write_repository
from ois_export.targets import Target
from ois_network.checkpoint import Checkpoint, load_checkpoint
from ois_network.split import Rewrites
from ois_runtime.engines import load_engines
from ois_runtime.manifest import MANIFEST_FILE, EngineFile, Manifest, TensorSpec

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

    `cached_kv` keeps the projected keys and values in the image state: a click computes less
    and an image takes about twice the memory.

    Raises `CheckpointError` for a wrong file, `InvalidInput` for an impossible combination,
    `UnsupportedGraph` and `ParityError` when the engines are not right, `OutputError` when
    they cannot be written. In every such case `output` is as it was before.
    """
    target.check(precision)
    _check_output(output)
    progress(f"loading {checkpoint_path}")
    checkpoint = load_checkpoint(checkpoint_path)
    with _staging(output) as folder:
        manifest = write_engines(
            checkpoint,
            folder,
            name=output.name,
            precision=precision,
            cached_kv=cached_kv,
            progress=progress,
        )
        parity = run_gate(
            checkpoint.network, load_engines(folder), limits=limits, progress=progress
        )
        manifest = _with_parity(manifest, parity)
        manifest.save(folder)
        write_repository(folder, manifest)
        progress(f"writing {output}")
        _publish(folder, output)
    return manifest


def write_engines(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    name: str,
    precision: str = "fp32",
    cached_kv: bool = False,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Graphs, lint and manifest into an existing `folder`, *without* the parity gate.

    For benchmarks of random weights and for tests of the gate itself; `export_engines` is
    what users get.
    """
    rewrites = Rewrites(cached_kv=cached_kv).effective(checkpoint.config)
    attention = ContribAttention()
    progress("exporting graphs")
    paths = export_graphs(checkpoint.network, folder, attention=attention, rewrites=rewrites)
    progress("linting graphs")
    engines = {role: _describe(path) for role, path in paths.items()}
    manifest = Manifest(
        name=name,
        target=Target.CPU.value,
        precision=precision,
        network=checkpoint.config.to_dict(),
        trained=checkpoint.trained,
        checkpoint_sha256=checkpoint.sha256,
        longest=checkpoint.config.longest,
        patch=checkpoint.config.patch,
        position_table=checkpoint.config.position_table,
        preprocess_version=PREPROCESS_VERSION,
        opset=OPSET,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        encoder=engines["encoder"],
        decoder=engines["decoder"],
        options={"cached_kv": rewrites.cached_kv, "masked_logit": attention.masked_logit},
    )
    manifest.save(folder)
    return manifest


def _with_parity(manifest: Manifest, parity: dict[str, object]) -> Manifest:
    data = manifest.to_dict()
    data["parity"] = parity
    return Manifest.from_dict(data)


def _describe(path: Path) -> EngineFile:
    """Lint a graph and record its signature."""
    model = check(path)

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


def _check_output(output: Path) -> None:
    """Refuse to replace anything that is not an engine folder."""
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output} is a file; expected a folder to write the engines to")
    if any(output.iterdir()) and not (output / MANIFEST_FILE).is_file():
        raise OutputError(
            f"{output} is not empty and holds no {MANIFEST_FILE}: it is not an engine folder. "
            "Choose another --output; nothing was changed"
        )


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A hidden folder beside `output`, gone afterwards whatever happens."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise OutputError(f"cannot write to {output.parent}: {error}") from error
    try:
        yield folder
    except OSError as error:
        raise OutputError(
            f"writing the engines failed: {error}; {output} is as it was before"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, output: Path) -> None:
    """`folder` takes the place of `output`; on failure the old engines stay."""
    folder.chmod(0o755)
    old = None
    if output.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{output.name}-old-", dir=output.parent))
        output.replace(old / "engines")
    try:
        folder.replace(output)
    except OSError:
        if old is not None:
            (old / "engines").replace(output)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
