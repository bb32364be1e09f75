"""Engines -> a model repository that Triton serves as it is.

    <engines>/repository/
        ois_encoder/config.pbtxt  1/model.onnx
        ois_segment/config.pbtxt  1/model.py  1/manifest.json
        ...

The configs come from `triton_models/`; what depends on the network (the tensors between the
engines) is filled in from the manifest. One set of configs for CI and production.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from string import Template

from ois_client.contract.errors import EngineError, OutputError
from ois_export.tensorrt.warm_up import model_warmup
from ois_runtime.engines.manifest import MANIFEST_FILE, EngineFile, Manifest, TensorSpec

REPOSITORY = "repository"
VERSION = "1"

#: Suffix of an engine file -> Triton's platform, backend, and the file's name in a version.
PLATFORMS = {
    ".onnx": ("onnxruntime_onnx", "onnxruntime", "model.onnx"),
    ".plan": ("tensorrt_plan", "tensorrt", "model.plan"),
}

_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}


def write_repository(folder: Path, manifest: Manifest, parent: Path | None = None) -> Path:
    """Write `parent/repository` (parent: `folder`) for the engines in `folder`, whole or not.

    An engine is hard-linked where the file system can, else copied. Returns the repository.
    Raises `EngineError` for tensors or files that Triton does not know, `OutputError` when it
    cannot be written; then an older repository is as it was.
    """
    values = _values(manifest)
    output = (parent or folder) / REPOSITORY
    staged = None
    try:
        staged = Path(tempfile.mkdtemp(prefix=f".{REPOSITORY}-", dir=output.parent))
        for template in sorted(templates().glob("*/config.pbtxt")):
            _write_model(template.parent, staged / template.parent.name, values, manifest)
        for model, engine in (("ois_encoder", manifest.encoder), ("ois_decoder", manifest.decoder)):
            name = _platform(engine)[2]
            _link(folder / engine.file, staged / model / VERSION / name)
        staged.chmod(0o755)
        old = staged.with_name(f"{staged.name}-old")
        if output.exists():
            output.replace(old)
        staged.replace(output)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"the model repository {output} cannot be written: {error}") from error
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
    return output


def is_current(repository: Path, folder: Path) -> bool:
    """Whether `repository` was written for the engines that are in `folder` now."""
    written = repository / "ois_segment" / VERSION / MANIFEST_FILE
    try:
        return written.read_bytes() == (folder / MANIFEST_FILE).read_bytes()
    except OSError:
        return False


def templates() -> Path:
    """The folder of the models as they are before an export fills them in."""
    installed = Path(str(resources.files("ois_export"))) / "triton_models"
    source = Path(__file__).resolve().parents[2] / "triton_models"
    found = next((path for path in (installed, source) if path.is_dir()), None)
    if found is None:
        raise EngineError("this installation lacks triton_models; install ois-deploy again")
    return found


def _write_model(template: Path, output: Path, values: dict[str, str], manifest: Manifest) -> None:
    version = output / VERSION
    version.mkdir(parents=True)
    config = Template((template / "config.pbtxt").read_text(encoding="utf-8"))
    (output / "config.pbtxt").write_text(config.substitute(values), encoding="utf-8")
    model = template / VERSION / "model.py"
    if model.is_file():
        shutil.copyfile(model, version / "model.py")
        manifest.save(version)


def _values(manifest: Manifest) -> dict[str, str]:
    """What the templates' placeholders stand for."""
    platform, backend, _ = _platform(manifest.encoder)
    encoder, decoder = manifest.encoder, manifest.decoder
    return {
        "PLATFORM": platform,
        "BACKEND": backend,
        "POSITION_TABLE": str(manifest.position_table),
        "ENCODER_INPUTS": _tensors(encoder.inputs),
        "ENCODER_OUTPUTS": _tensors(encoder.outputs),
        "DECODER_INPUTS": _tensors(decoder.inputs),
        "DECODER_OUTPUTS": _tensors(decoder.outputs),
        "ENCODER_INPUT_MAP": _map("input_map", encoder.inputs),
        "ENCODER_OUTPUT_MAP": _map("output_map", encoder.outputs),
        "DECODER_INPUT_MAP": _map("input_map", decoder.inputs),
        "ENCODER_PROFILES": _profiles(manifest, "encoder"),
        "DECODER_PROFILES": _profiles(manifest, "decoder"),
        "ENCODER_WARM_UP": model_warmup(manifest, "encoder", _kind),
        "DECODER_WARM_UP": model_warmup(manifest, "decoder", _kind),
    }


def _profiles(manifest: Manifest, role: str) -> str:
    """A TensorRT engine's profiles, of which Triton takes the nearest; it uses only those named."""
    count = len(manifest.options.get("profiles", {}).get(role, ()))
    names = ", ".join(f'"{number}"' for number in range(count))
    return f"profile: [ {names} ] " if count else ""


def _platform(engine: EngineFile) -> tuple[str, str, str]:
    found = PLATFORMS.get(Path(engine.file).suffix)
    if found is None:
        raise EngineError(
            f"got the engine file {engine.file!r}; Triton serves {', '.join(PLATFORMS)}"
        )
    return found


def _tensors(specs: Iterable[TensorSpec]) -> str:
    return ",\n".join(f"  {_tensor(spec)}" for spec in specs)


def _tensor(spec: TensorSpec) -> str:
    dims = ", ".join(str(side) if isinstance(side, int) else "-1" for side in spec.shape)
    return f'{{ name: "{spec.name}" data_type: {_kind(spec)} dims: [ {dims} ] }}'


def _kind(spec: TensorSpec) -> str:
    kind = _TYPES.get(spec.dtype)
    if kind is None:
        raise EngineError(
            f"got the tensor {spec.name} of type {spec.dtype}; expected one of {', '.join(_TYPES)}"
        )
    return kind


def _map(field: str, specs: Iterable[TensorSpec]) -> str:
    """Tensors that keep their names inside an ensemble."""
    return "\n".join(
        f'      {field} {{ key: "{spec.name}" value: "{spec.name}" }}' for spec in specs
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
