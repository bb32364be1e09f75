"""A manifest describes an engine folder, and a damaged folder is refused with its name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ois_client.contract.errors import EngineError, InvalidInput, OutputError
from ois_runtime.engines.manifest import (
    EXPORT_COMMAND,
    MANIFEST_FILE,
    EngineFile,
    Manifest,
    RegionParts,
    TensorSpec,
)
from support.tiny_engines import write_engines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_engines(tmp_path / "engines")


def rewrite(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(data | changes))


def test_what_was_saved_is_loaded(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.save(folder)
    assert Manifest.load(folder) == manifest
    assert manifest.encoder.inputs[0] == TensorSpec("image", "uint8", ("h", "w", 3))
    assert manifest.decoder.outputs[1].name == "new_coverage"
    manifest.verify(folder)


def test_the_parts_that_decode_a_region_are_files_of_the_folder(folder: Path) -> None:
    files = {}
    for role in ("trunk", "tail", "crop"):
        path = folder / f"{role}.onnx"
        path.write_bytes(role.encode())
        files[role] = EngineFile.of(path)
    parts = RegionParts(
        **files,
        stride=2,
        aligned=False,
        detail=None,
        keep_clicks=True,
        threshold=-1.5,
        coarse=(0.25, -1.0),
        accepted=True,
        gate={"mean_iou": 0.9995},
    )
    replace(Manifest.load(folder), region=parts).save(folder)
    manifest = Manifest.load(folder)
    assert manifest.region == parts
    (folder / "crop.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineError, match=r"crop\.onnx"):
        Manifest.load(folder)


def test_saving_leaves_no_temporary_file(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["decoder.onnx", "encoder.onnx", MANIFEST_FILE]


def test_the_model_digest_changes_with_either_engine(folder: Path) -> None:
    manifest = Manifest.load(folder)
    other = replace(manifest.encoder, sha256="f" * 64)
    digests = {
        manifest.model_sha256,
        replace(manifest, encoder=other).model_sha256,
        replace(manifest, decoder=other).model_sha256,
    }
    assert len(digests) == 3
    assert replace(manifest, name="renamed").model_sha256 == manifest.model_sha256


def test_a_missing_folder_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=EXPORT_COMMAND):
        Manifest.load(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "\x00\x01"])
def test_a_manifest_that_is_not_a_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST_FILE).write_text(text)
    with pytest.raises(EngineError, match=MANIFEST_FILE):
        Manifest.load(folder)


def test_a_manifest_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(EngineError, match="not readable JSON"):
        Manifest.load(folder)


@pytest.mark.parametrize("key", ["schema", "longest", "engines", "trained", "parity"])
def test_every_key_is_required(folder: Path, key: str) -> None:
    data = json.loads((folder / MANIFEST_FILE).read_text())
    del data[key]
    (folder / MANIFEST_FILE).write_text(json.dumps(data))
    with pytest.raises(EngineError, match=f"lacks '{key}'"):
        Manifest.load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("longest", "1022"),
        ("longest", True),
        ("longest", 0),
        ("longest", 57),
        ("patch", -14),
        ("trained", 1),
        ("name", None),
        ("versions", []),
        ("parity", "good"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(folder: Path, key: str, value: Any) -> None:
    rewrite(folder, **{key: value})
    with pytest.raises(EngineError, match=key):
        Manifest.load(folder)


def test_another_schema_is_refused_and_unknown_keys_are_not(folder: Path) -> None:
    rewrite(folder, remark="added by a later version")
    Manifest.load(folder)
    rewrite(folder, schema=2)
    with pytest.raises(EngineError, match="schema 2"):
        Manifest.load(folder)


def test_an_engine_outside_the_folder_is_refused(folder: Path) -> None:
    data = json.loads((folder / MANIFEST_FILE).read_text())
    data["engines"]["decoder"]["file"] = "../decoder.onnx"
    rewrite(folder, engines=data["engines"])
    with pytest.raises(EngineError, match="plain name"):
        Manifest.load(folder)


def test_a_missing_engine_and_a_truncated_engine_are_refused(folder: Path) -> None:
    path = folder / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match="bytes; the manifest records"):
        Manifest.load(folder)
    path.unlink()
    with pytest.raises(EngineError, match=r"decoder\.onnx is missing"):
        Manifest.load(folder)


def test_verify_finds_one_changed_byte(folder: Path) -> None:
    path = folder / "encoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    manifest = Manifest.load(folder)
    with pytest.raises(EngineError, match="sha256"):
        manifest.verify(folder)


def test_a_manifest_that_cannot_be_written_is_an_output_error(folder: Path) -> None:
    with pytest.raises(OutputError, match="cannot create the folder"):
        Manifest.load(folder).save(folder / MANIFEST_FILE / "below-a-file")


def test_another_size_is_another_model(folder: Path) -> None:
    manifest = Manifest.load(folder)  # 56 pixels, patches of 14
    larger = manifest.at(84)
    assert (larger.longest, larger.patch) == (84, 14)
    assert larger.model_sha256 not in (manifest.model_sha256, manifest.at(70).model_sha256)
    assert larger.fit(168, 84).network_width == 84
    assert larger.at(56).model_sha256 == manifest.model_sha256
    assert manifest.at(56) is manifest


@pytest.mark.parametrize("longest", [0, -56, 14, 60, 14 * 1025])
def test_an_impossible_size_is_refused(folder: Path, longest: int) -> None:
    with pytest.raises(InvalidInput, match=r"a multiple of 14 from 56 to 14336"):
        Manifest.load(folder).at(longest)


def test_engines_of_fixed_shapes_have_one_size(folder: Path) -> None:
    manifest = replace(Manifest.load(folder), options={"profiles": {"encoder": ["56x42"]}})
    with pytest.raises(InvalidInput, match="built for 56"):
        manifest.at(84)


def test_coverage_has_one_cell_per_patch_unless_the_manifest_says_more(folder: Path) -> None:
    manifest = Manifest.load(folder)
    assert manifest.fit(112, 84).coverage_shape == (3, 4)
    rewrite(folder, coverage_scale=4)
    fine = Manifest.load(folder)
    assert fine.fit(112, 84).coverage_shape == (12, 16)
    assert fine.model_info("x").coverage_scale == 4
    data = json.loads((folder / MANIFEST_FILE).read_text())
    del data["coverage_scale"]  # as exports before it
    (folder / MANIFEST_FILE).write_text(json.dumps(data))
    assert Manifest.load(folder).coverage_scale == 1
