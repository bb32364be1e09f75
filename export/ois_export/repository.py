"""Writes the model repository that Triton serves.

    <engines>/repository/
        ois_encoder/config.pbtxt  1/model.onnx
        ois_segment/config.pbtxt  1/model.py  1/manifest.json
                                  1/trunk.onnx  1/tail.onnx  1/crop.onnx   if regions are decoded
        ...

The configs come from `triton_models/`. What depends on the network (the tensors between the
engines) is filled in from the manifest. CI and production use the same configs.

A TensorRT engine gets warm-up requests (`model_warmup`), which Triton runs before the model is
ready: one per profile, of the shapes that the profile is tuned for, all zeros. The first click
then does not wait for what TensorRT sets up once per profile. The gate of `ois build` has run
each of these shapes. The requests are kept in the manifest's options, so that a repository can
be written without TensorRT. ONNX engines have no warm-up requests: the same configs also serve on
CPUs, where an encode takes seconds. *Not run on a GPU yet.*
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from ois_client.contract.errors import EngineError
from ois_client.wire import MODEL
from ois_export.publish import publish, staging
from ois_runtime.engines.manifest import MANIFEST_FILE, EngineFile, Manifest, TensorSpec

REPOSITORY = "repository"
VERSION = "1"
ENSEMBLES = ("ois_encode", "ois_oneshot")
#: In `Manifest.options`: role -> per profile {"name": ..., "inputs": {input: shape}}.
WARM_UP = "warm_up"

#: Suffix of an engine file -> Triton's platform, backend, and the file's name in the repository.
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
    """Write the repository of the engines in `folder` and return its path.

    parent: the folder to write it to; default `folder`.
    Engines are hard-linked if the file system supports it, else copied. Raises `EngineError` if
    Triton does not support a tensor's type or an engine's file, `OutputError` if the repository
    cannot be written. An existing repository is then unchanged.
    """
    values = _values(manifest)
    output = (parent or folder) / REPOSITORY
    with staging(output) as staged:
        for template in sorted(templates().glob("*/config.pbtxt")):
            _write_model(template.parent, staged / template.parent.name, values, manifest)
        for model, engine in (("ois_encoder", manifest.encoder), ("ois_decoder", manifest.decoder)):
            name = _platform(engine)[2]
            _link(folder / engine.file, staged / model / VERSION / name)
        for engine in manifest.region.files if manifest.region else ():
            _link(folder / engine.file, staged / MODEL / VERSION / engine.file)
        publish(staged, output)
    return output


def is_current(repository: Path, folder: Path) -> bool:
    """Return whether `repository` was written for the engines now in `folder`, by this release.

    An earlier release may have written ensembles without inputs that clients send now. Only the
    configs of ensembles are compared, because people set limits in the others.
    """
    written = repository / "ois_segment" / VERSION / MANIFEST_FILE
    try:
        if written.read_bytes() != (folder / MANIFEST_FILE).read_bytes():
            return False
        values = _values(Manifest.load(folder))
        return all(
            (repository / model / "config.pbtxt").read_text(encoding="utf-8")
            == _config(templates() / model, values)
            for model in ENSEMBLES
        )
    except OSError:
        return False


def templates() -> Path:
    """Return the folder of the model templates. Raises `EngineError` if it is missing."""
    installed = Path(str(resources.files("ois_export"))) / "triton_models"
    source = Path(__file__).resolve().parents[2] / "triton_models"
    found = next((path for path in (installed, source) if path.is_dir()), None)
    if found is None:
        raise EngineError(
            "triton_models is missing from this installation; install ois-deploy again"
        )
    return found


def _write_model(template: Path, output: Path, values: dict[str, str], manifest: Manifest) -> None:
    version = output / VERSION
    version.mkdir(parents=True)
    (output / "config.pbtxt").write_text(_config(template, values), encoding="utf-8")
    model = template / VERSION / "model.py"
    if model.is_file():
        shutil.copyfile(model, version / "model.py")
        manifest.save(version)


def _config(template: Path, values: dict[str, str]) -> str:
    return Template((template / "config.pbtxt").read_text(encoding="utf-8")).substitute(values)


def _values(manifest: Manifest) -> dict[str, str]:
    """The values of the templates' placeholders."""
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
        "ENCODER_WARM_UP": _warm_up(manifest, "encoder"),
        "DECODER_WARM_UP": _warm_up(manifest, "decoder"),
    }


def _profiles(manifest: Manifest, role: str) -> str:
    """List all profiles of a TensorRT engine: Triton chooses only among those that are listed."""
    count = len(manifest.options.get("profiles", {}).get(role, ()))
    names = ", ".join(f'"{number}"' for number in range(count))
    return f"profile: [ {names} ] " if count else ""


def _warm_up(manifest: Manifest, role: str) -> str:
    """The `model_warmup` of a config, empty without requests."""
    requests: Sequence[Mapping[str, Any]] = manifest.options.get(WARM_UP, {}).get(role, ())
    engine = {"encoder": manifest.encoder, "decoder": manifest.decoder}[role]
    types = {spec.name: _type(spec) for spec in engine.inputs}
    entries = []
    for request in requests:
        inputs = "\n".join(
            f'    inputs {{ key: "{name}" value {{ data_type: {types[name]} '
            f"dims: [ {', '.join(map(str, shape))} ] zero_data: true }} }}"
            for name, shape in request["inputs"].items()
        )
        # These models have no batches, but Triton skips a request of batch size 0.
        entries.append(f'  {{\n    name: "{request["name"]}"\n    batch_size: 1\n{inputs}\n  }}')
    return "model_warmup [\n" + ",\n".join(entries) + "\n]" if entries else ""


def _platform(engine: EngineFile) -> tuple[str, str, str]:
    found = PLATFORMS.get(Path(engine.file).suffix)
    if found is None:
        raise EngineError(
            f"got the engine file {engine.file!r}; expected one of {', '.join(PLATFORMS)}"
        )
    return found


def _tensors(specs: Iterable[TensorSpec]) -> str:
    return ",\n".join(f"  {_tensor(spec)}" for spec in specs)


def _tensor(spec: TensorSpec) -> str:
    dims = ", ".join(str(side) if isinstance(side, int) else "-1" for side in spec.shape)
    return f'{{ name: "{spec.name}" data_type: {_type(spec)} dims: [ {dims} ] }}'


def _type(spec: TensorSpec) -> str:
    found = _TYPES.get(spec.dtype)
    if found is None:
        raise EngineError(
            f"got the tensor {spec.name} of type {spec.dtype}; expected one of {', '.join(_TYPES)}"
        )
    return found


def _map(field: str, specs: Iterable[TensorSpec]) -> str:
    """Map tensors to the same names inside an ensemble."""
    return "\n".join(
        f'      {field} {{ key: "{spec.name}" value: "{spec.name}" }}' for spec in specs
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
