"""The exported model repository is complete and valid, and has the manifest's tensors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ois_client.contract.errors import EngineError, OutputError
from ois_client.wire import (
    INPUTS,
    MODEL,
    ONESHOT_INPUTS,
    ONESHOT_MODEL,
    OUTPUTS,
    WireTensor,
)
from ois_export.repository import is_current, templates, write_repository
from ois_runtime.engines.manifest import Manifest
from ois_runtime.serving.configuration import ServingOptions
from support.tiny_engines import write_engines

PYTHON = {"ois_segment", "ois_preprocess", "ois_postprocess"}
ENGINES = {"ois_encoder", "ois_decoder"}
ENSEMBLES = {"ois_encode", "ois_oneshot"}

_TENSOR = re.compile(
    r'\{ name: "(\w+)"\s+data_type: TYPE_(\w+)\s+dims: \[ ([^\]]*) \]\s*(optional: true )?\}'
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine folder with its model repository."""
    folder = write_engines(tmp_path_factory.mktemp("engines"))
    write_repository(folder, Manifest.load(folder))
    return folder


def tensors(config: str, field: str) -> dict[str, tuple[str, tuple[int, ...], bool]]:
    """name -> type, dims, optional of a config's `input` or `output`."""
    (block,) = re.findall(rf"^{field} \[\n(.*?)^\]", config, re.DOTALL | re.MULTILINE)
    found = {}
    for name, kind, dims, optional in _TENSOR.findall(block):
        sides = tuple(int(side) for side in dims.split(","))
        found[name] = (kind.replace("STRING", "BYTES"), sides, bool(optional))
    return found


def test_every_model_is_there_with_its_version_and_manifest(engines: Path) -> None:
    repository = engines / "repository"
    assert {path.name for path in repository.iterdir()} == PYTHON | ENGINES | ENSEMBLES
    manifest = Manifest.load(engines)
    for model in PYTHON:
        version = repository / model / "1"
        assert {path.name for path in version.iterdir()} - {"__pycache__"} == {
            "model.py",
            "manifest.json",
        }
        assert (version / "manifest.json").read_text() == (engines / "manifest.json").read_text()
    for model, engine in (("ois_encoder", manifest.encoder), ("ois_decoder", manifest.decoder)):
        file = repository / model / "1" / "model.onnx"
        assert file.samefile(engines / engine.file)
    for model in ENSEMBLES:
        assert (repository / model / "1").is_dir()


def test_no_placeholder_is_left(engines: Path) -> None:
    for path in (engines / "repository").glob("*/config.pbtxt"):
        text = path.read_text()
        assert "$" not in text
        assert f'name: "{path.parent.name}"' in text
        assert text.count("{") == text.count("}")
        assert text.count("[") == text.count("]")


def test_config_s_tensors_are_those_of_the_wire() -> None:
    config = (templates() / MODEL / "config.pbtxt").read_text()

    def wire(specs: dict[str, WireTensor], *, optional: bool) -> dict[str, object]:
        return {name: (spec.datatype, spec.dims, optional) for name, spec in specs.items()}

    assert tensors(config, "input") == wire(dict(INPUTS), optional=True)
    assert tensors(config, "output") == wire(dict(OUTPUTS), optional=False)


def test_the_ensembles_tensors_are_those_of_the_wire(engines: Path) -> None:
    config = (engines / "repository" / ONESHOT_MODEL / "config.pbtxt").read_text()
    expected = {name: (INPUTS[name].datatype, INPUTS[name].dims, False) for name in ONESHOT_INPUTS}
    assert tensors(config, "input") == expected
    outputs = tensors(config, "output")
    assert outputs.pop("SIZE") == ("INT32", (2,), False)
    assert set(outputs) == {"INFO", "MASKS", "MASK_SIZES", "NEW_COVERAGE"}
    for name, tensor in outputs.items():
        assert tensor == (OUTPUTS[name].datatype, OUTPUTS[name].dims, False)


def test_the_configs_parameters_are_options_at_their_defaults() -> None:
    config = (templates() / MODEL / "config.pbtxt").read_text()
    found = dict(re.findall(r'key: "(\w+)"\s+value \{ string_value: "(\w+)" \}', config))
    assert found
    assert ServingOptions.read(found, {}) == ServingOptions()


def test_the_engines_tensors_are_the_manifests(engines: Path) -> None:
    manifest = Manifest.load(engines)
    for model, engine in (("ois_encoder", manifest.encoder), ("ois_decoder", manifest.decoder)):
        config = (engines / "repository" / model / "config.pbtxt").read_text()
        assert 'platform: "onnxruntime_onnx"' in config
        assert "KIND_AUTO" in config
        for field, specs in (("input", engine.inputs), ("output", engine.outputs)):
            expected = {
                spec.name: tuple(side if isinstance(side, int) else -1 for side in spec.shape)
                for spec in specs
            }
            assert {name: dims for name, (_, dims, _) in tensors(config, field).items()} == expected


def test_writing_again_replaces_the_repository_whole(tmp_path: Path) -> None:
    folder = write_engines(tmp_path)
    manifest = Manifest.load(folder)
    repository = write_repository(folder, manifest)
    assert is_current(repository, folder)
    limits = repository / MODEL / "config.pbtxt"
    limits.write_text(limits.read_text().replace('"32"', '"16"'))  # what a user may change
    assert is_current(repository, folder)
    ensemble = repository / ONESHOT_MODEL / "config.pbtxt"
    ensemble.write_text(ensemble.read_text().replace('"COVERAGE"', '"OTHER"'))
    assert not is_current(repository, folder)
    (repository / "stale").mkdir()
    assert write_repository(folder, manifest) == repository
    assert not (repository / "stale").exists()
    assert is_current(repository, folder)
    Manifest.from_dict({**manifest.to_dict(), "name": "another"}).save(folder)
    assert not is_current(repository, folder)
    assert not is_current(tmp_path / "nowhere", folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "decoder.onnx",
        "encoder.onnx",
        "manifest.json",
        "repository",
    ]


def test_what_triton_cannot_serve_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder = write_engines(tmp_path)
    data = Manifest.load(folder).to_dict()
    data["engines"]["encoder"]["outputs"][0]["dtype"] = "complex64"
    with pytest.raises(EngineError, match="complex64"):
        write_repository(folder, Manifest.from_dict(data))
    data = Manifest.load(folder).to_dict()
    data["engines"]["encoder"]["file"] = "encoder.pt"
    with pytest.raises(EngineError, match=r"encoder\.pt"):
        write_repository(folder, Manifest.from_dict(data))
    assert not (folder / "repository").exists()
    with pytest.raises(OutputError, match="cannot be written"):
        write_repository(folder, Manifest.load(folder), folder / "manifest.json")
