"""`ois export` writes a complete engine folder, or changes nothing and says why."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ois_cli.main import main
from ois_client.contract.errors import InvalidInput, OutputError, ParityError, UnsupportedGraph
from ois_export import export as module
from ois_export.export import export_engines
from ois_export.parity.network_gate import run_gate
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_runtime.engines.backends import load_engines
from ois_runtime.engines.manifest import Manifest
from support.network_scenes import micro


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "micro.safetensors"
    save_checkpoint(micro(), path, trained=False)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "engines"
    export_engines(checkpoint, output)
    return output


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_manifest_describes_the_engines_and_their_parity(
    exported: Path, checkpoint: Path
) -> None:
    manifest = Manifest.load(exported)
    manifest.verify(exported)
    assert manifest.checkpoint_sha256 == load_checkpoint(checkpoint).sha256
    assert manifest.network["name"] == "micro"
    assert manifest.trained is False
    assert len(manifest.parity["cases"]) == 5  # type: ignore[call-overload]
    assert {"torch", "onnx", "onnxruntime"} <= set(manifest.versions)
    image = next(spec for spec in manifest.encoder.inputs if spec.name == "image")
    assert image.dtype == "uint8"
    assert image.shape[2] == 3
    assert all(isinstance(side, str) for side in image.shape[:2])
    assert left_behind(exported.parent) == ["engines"]


def test_a_wrong_engine_fails_the_gate(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Changing one weight of the decoder by two percent is enough."""
    for name in ("manifest.json", "encoder.onnx"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    graph = onnx.load(str(exported / "decoder.onnx"))
    floats = [t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    weight = max(floats, key=lambda tensor: np.prod(tensor.dims))
    changed = numpy_helper.to_array(weight) * np.float32(1.02)
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    onnx.save(graph, str(tmp_path / "decoder.onnx"))
    data = json.loads((tmp_path / "manifest.json").read_text())
    data["engines"]["decoder"]["bytes"] = (tmp_path / "decoder.onnx").stat().st_size
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(ParityError, match=r"logit_error is .*; the limit is 0\.0001"):
        run_gate(load_checkpoint(checkpoint).network, load_engines(tmp_path))


@pytest.mark.parametrize("fault", ["parity", "lint", "disk", "interrupt"])
def test_a_failed_export_leaves_the_old_engines(
    exported: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before = {path.name: path.read_bytes() for path in exported.iterdir() if path.is_file()}

    def fail(*_: object, **__: object) -> None:
        raise {
            "parity": ParityError("the engines differ"),
            "lint": UnsupportedGraph("a rule is broken"),
            "disk": OSError(errno.ENOSPC, "No space left on device"),
            "interrupt": KeyboardInterrupt(),
        }[fault]

    # The export of graphs is tested elsewhere; here it only raises the error.
    monkeypatch.setattr(module, "export_graphs", fail)
    expected = {"disk": OutputError, "parity": ParityError, "lint": UnsupportedGraph}
    with pytest.raises(expected.get(fault, KeyboardInterrupt)):
        export_engines(checkpoint, exported)
    after = {path.name: path.read_bytes() for path in exported.iterdir() if path.is_file()}
    assert after == before
    assert left_behind(exported.parent) == ["engines"]


def test_a_folder_without_engines_is_never_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(OutputError, match="not an engine folder"):
        export_engines(checkpoint, tmp_path)
    with pytest.raises(OutputError, match="is a file"):
        export_engines(checkpoint, tmp_path / "thesis.txt")
    assert left_behind(tmp_path) == ["thesis.txt"]


def test_unsupported_precisions_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="got the precision 'fp16'"):
        export_engines(checkpoint, tmp_path / "e", precision="fp16")


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("missing.safetensors", "missing.safetensors"),
        ("text.safetensors", "text.safetensors"),
    ],
)
def test_a_wrong_checkpoint_is_a_message_and_exit_code_2(
    argument: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.safetensors").write_text("not weights")
    assert main(["export", str(tmp_path / argument), "-o", str(tmp_path / "e")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not (tmp_path / "e").exists()
