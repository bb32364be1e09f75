"""`manifest.json`: what an engine folder contains, how it was made, and how it was checked.

    engines/ois-photo-cpu/
        manifest.json
        encoder.onnx
        decoder.onnx

Loading checks keys, types, files and their sizes. `verify` also checks the digests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from ois_client.contract.errors import EngineError, InvalidInput, OutputError
from ois_client.contract.files import write_file
from ois_client.contract.geometry import Geometry
from ois_client.contract.transport import ModelInfo

MANIFEST_FILE = "manifest.json"
SCHEMA = 1
#: Without a checkpoint: the shipped one.
EXPORT_COMMAND = "ois export"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An engine's input or output. A dimension is a number, or a name if it is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class EngineFile:
    """One engine: its file name in the folder, digest, size in bytes, inputs and outputs."""

    file: str
    sha256: str
    bytes: int
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    @classmethod
    def of(
        cls, path: Path, inputs: Sequence[TensorSpec] = (), outputs: Sequence[TensorSpec] = ()
    ) -> EngineFile:
        """Describe the engine file at `path`."""
        return cls(path.name, sha256_of(path), path.stat().st_size, tuple(inputs), tuple(outputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionParts:
    """The decoder in three parts that can decode a region (`ois_runtime.engines.region`).

    trunk, tail, crop: the graphs. stride, aligned, detail: of `TailForm`. keep_clicks, threshold:
    of `RegionForm`. coarse: the weights of the coarse map and, last, its bias.
    accepted: whether the gate found that regions are good enough to be the default; gate: what it
    measured, empty if it was not run.
    """

    trunk: EngineFile
    tail: EngineFile
    crop: EngineFile
    stride: int
    aligned: bool
    detail: str | None
    keep_clicks: bool
    threshold: float
    coarse: tuple[float, ...]
    accepted: bool
    gate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[EngineFile, EngineFile, EngineFile]:
        return self.trunk, self.tail, self.crop

    @classmethod
    def from_dict(cls, data: Any, source: str) -> RegionParts:
        """Raises `EngineError` if it is not a record of this kind."""
        fields = _checked(data, _REGION_TYPES, source)
        for role in ("trunk", "tail", "crop"):
            fields[role] = _engine_file(fields[role], f"{source}.{role}")
        fields["threshold"] = float(fields["threshold"])
        fields["coarse"] = tuple(map(float, fields["coarse"]))
        return cls(**fields)


#: The option that `Manifest.at` sets.
_EXPORTED_LONGEST = "exported_longest"
#: Fewest and most patches along the longest side.
_SIZES = (4, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a runtime must know before it opens the engines.

    network: the network's configuration, not interpreted here.
    longest, patch, position_table, coverage_scale: the arguments of `Geometry`.
    parity: differences from the PyTorch network, measured by the export.
    options: the exporter's choices, such as cached keys and values.
    region: the decoder in parts; None if it was exported whole only.
    """

    name: str
    target: str
    precision: str
    network: Mapping[str, Any]
    trained: bool
    checkpoint_sha256: str
    longest: int
    patch: int
    position_table: int
    preprocess_version: str
    opset: int
    created: str
    versions: Mapping[str, str]
    encoder: EngineFile
    decoder: EngineFile
    parity: Mapping[str, Any] | Sequence[Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    coverage_scale: int = 1
    region: RegionParts | None = None
    schema: int = SCHEMA

    @property
    def model_sha256(self) -> str:
        """The digest of both engines, and of the network size if it is not the exported one.

        Engines with the same digest compute the same masks.
        """
        parts = self.encoder.sha256 + self.decoder.sha256
        if _EXPORTED_LONGEST in self.options:
            parts += f" longest={self.longest}"
        return hashlib.sha256(parts.encode()).hexdigest()

    @property
    def files(self) -> tuple[EngineFile, ...]:
        """All engine files of the folder."""
        return self.encoder, self.decoder, *(self.region.files if self.region else ())

    def at(self, longest: int) -> Manifest:
        """The same engines for images of another longest side: smaller is faster and coarser.

        Graphs take every shape, so nothing has to be exported again. The result has its own
        `model_sha256`, so features and masks of two sizes are not mixed. Raises `InvalidInput` if
        the size is impossible, or the engines were built for fixed shapes (TensorRT).
        """
        if longest == self.longest:
            return self
        if "profiles" in self.options:
            raise InvalidInput(
                f"got longest = {longest}; these TensorRT engines were built for {self.longest}. "
                "Export and build them for the other size"
            )
        least, most = _SIZES[0] * self.patch, _SIZES[1] * self.patch
        if longest % self.patch or not least <= longest <= most:
            raise InvalidInput(
                f"got longest = {longest}; expected a multiple of {self.patch} from {least} to "
                f"{most}, such as {self.longest // self.patch // 2 * self.patch} (the engines were "
                f"exported for {self.longest})"
            )
        options = {_EXPORTED_LONGEST: self.longest, **self.options}
        if options[_EXPORTED_LONGEST] == longest:
            del options[_EXPORTED_LONGEST]
        return dataclasses.replace(self, longest=longest, options=options)

    def model_info(self, engine: str, *, coarse_answers: bool = False) -> ModelInfo:
        """What clients are told about the model. engine: what runs it, for people."""
        return ModelInfo(
            network=self.name,
            longest=self.longest,
            patch=self.patch,
            preprocess_version=self.preprocess_version,
            model_sha256=self.model_sha256,
            trained=self.trained,
            engine=engine,
            coverage_scale=self.coverage_scale,
            coarse_answers=coarse_answers,
        )

    def fit(self, width: int, height: int) -> Geometry:
        """The geometry of a `width` x `height` image. Raises as `Geometry.fit`."""
        return Geometry.fit(
            width,
            height,
            longest=self.longest,
            patch=self.patch,
            coverage_scale=self.coverage_scale,
        )

    def to_dict(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        data["engines"] = {role: data.pop(role) for role in ("encoder", "decoder")}
        return data

    @classmethod
    def from_dict(cls, data: Any, *, source: str = MANIFEST_FILE) -> Manifest:
        """Check and convert JSON data. Raises `EngineError` if it is no manifest of this schema."""
        if isinstance(data, dict):
            # Exports of earlier versions lack these fields.
            data = {"coverage_scale": 1, "region": None, **data}
        fields = _checked(data, _MANIFEST_TYPES, source)
        if fields["schema"] != SCHEMA:
            raise EngineError(
                f"{source} has schema {fields['schema']}; this version reads schema {SCHEMA}. "
                f"Export the engines again: {EXPORT_COMMAND}"
            )
        for name in ("longest", "patch", "position_table", "coverage_scale"):
            if fields[name] < 1:
                raise EngineError(f"{source}: {name} is {fields[name]}; expected at least 1")
        if fields["longest"] % fields["patch"]:
            raise EngineError(
                f"{source}: longest is {fields['longest']}, not a multiple of the patch size "
                f"{fields['patch']}"
            )
        engines = fields.pop("engines")
        for role in ("encoder", "decoder"):
            if role not in engines:
                raise _lacks(source, f"engines.{role}")
            fields[role] = _engine_file(engines[role], f"{source}: engines.{role}")
        if fields["region"] is not None:
            fields["region"] = RegionParts.from_dict(fields["region"], f"{source}: region")
        return cls(**fields)

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read and check the manifest in `folder`, and the sizes of the engine files.

        Raises `EngineError` if the folder, the manifest or an engine is missing or damaged.
        """
        folder = Path(folder)
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise EngineError(
                f"no engines in {folder}: expected a folder with {MANIFEST_FILE}, encoder.onnx "
                f"and decoder.onnx. Make one with: {EXPORT_COMMAND}"
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EngineError(
                f"{path} is not readable JSON ({error}). Export the engines again: {EXPORT_COMMAND}"
            ) from error
        manifest = cls.from_dict(data, source=str(path))
        for engine in manifest.files:
            _check_size(folder / engine.file, engine)
        return manifest

    def save(self, folder: str | Path) -> Path:
        """Write `folder/manifest.json` whole, or raise `OutputError` and leave it unchanged."""
        path = Path(folder) / MANIFEST_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot create the folder {path.parent}: {error.strerror}; choose another folder"
            ) from error
        write_file(path, (json.dumps(self.to_dict(), indent=2) + "\n").encode())
        return path

    def verify(self, folder: str | Path) -> None:
        """Read all engine files. Raises `EngineError` if a digest is not the recorded one."""
        for engine in self.files:
            path = Path(folder) / engine.file
            _check_size(path, engine)
            got = sha256_of(path)
            if got != engine.sha256:
                raise EngineError(
                    f"{path} has sha256 {got}; the manifest records {engine.sha256}. The file "
                    f"was changed after the export. Export again: {EXPORT_COMMAND}"
                )


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file. Raises `EngineError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EngineError(f"could not read {path}: {error}") from error


_MANIFEST_TYPES: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "name": (str,),
    "target": (str,),
    "precision": (str,),
    "network": (dict,),
    "trained": (bool,),
    "checkpoint_sha256": (str,),
    "longest": (int,),
    "patch": (int,),
    "position_table": (int,),
    "coverage_scale": (int,),
    "preprocess_version": (str,),
    "opset": (int,),
    "created": (str,),
    "versions": (dict,),
    "engines": (dict,),
    "parity": (dict, list),
    "options": (dict,),
    "region": (dict, NoneType),
}
_REGION_TYPES: dict[str, tuple[type, ...]] = {
    "trunk": (dict,),
    "tail": (dict,),
    "crop": (dict,),
    "stride": (int,),
    "aligned": (bool,),
    "detail": (str, NoneType),
    "keep_clicks": (bool,),
    "threshold": (float, int),
    "coarse": (list, tuple),
    "accepted": (bool,),
    "gate": (dict,),
}
_ENGINE_TYPES: dict[str, tuple[type, ...]] = {
    "file": (str,),
    "sha256": (str,),
    "bytes": (int,),
    "inputs": (list, tuple),
    "outputs": (list, tuple),
}
_TENSOR_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "dtype": (str,),
    "shape": (list, tuple),
}


def _lacks(source: str, key: str) -> EngineError:
    return EngineError(f"{source} lacks {key!r}. Export the engines again: {EXPORT_COMMAND}")


def _checked(data: Any, types: Mapping[str, tuple[type, ...]], source: str) -> dict[str, Any]:
    """The values of the known keys, after a check of their types. Other keys are ignored."""
    if not isinstance(data, dict):
        raise EngineError(f"{source} contains {type(data).__name__}; expected an object")
    for key, expected in types.items():
        if key not in data:
            raise _lacks(source, key)
        # bool is a subclass of int; `true` must not be accepted as a size.
        wrong_bool = isinstance(data[key], bool) and bool not in expected
        if wrong_bool or not isinstance(data[key], expected):
            raise EngineError(
                f"{source}: {key!r} is {data[key]!r}; expected "
                f"{' or '.join(kind.__name__ for kind in expected)}"
            )
    return {key: data[key] for key in types}


def _engine_file(data: Any, source: str) -> EngineFile:
    fields = _checked(data, _ENGINE_TYPES, source)
    if Path(fields["file"]).name != fields["file"]:
        raise EngineError(
            f"{source}: file is {fields['file']!r}; expected a plain name inside the folder"
        )
    for side in ("inputs", "outputs"):
        specs = [_checked(spec, _TENSOR_TYPES, f"{source}.{side}") for spec in fields[side]]
        fields[side] = tuple(
            TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in specs
        )
    return EngineFile(**fields)


def _check_size(path: Path, engine: EngineFile) -> None:
    if not path.is_file():
        raise EngineError(f"{path} is missing. Export the engines again: {EXPORT_COMMAND}")
    size = path.stat().st_size
    if size != engine.bytes:
        raise EngineError(
            f"{path} has {size} bytes; the manifest records {engine.bytes}. The file is "
            f"incomplete or was replaced. Export the engines again: {EXPORT_COMMAND}"
        )
