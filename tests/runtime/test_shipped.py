"""The shipped checkpoint is found in a checkout and in a wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ois_client.contract.errors import CheckpointError
from ois_runtime import shipped
from support.documents import ROOT

FILES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
    "wheel"
]["force-include"]


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package were in `folder` and there were no checkout."""
    monkeypatch.setattr(shipped.resources, "files", lambda name: folder / name)
    monkeypatch.setattr(shipped, "_CHECKOUT", folder)


def test_a_checkout_has_it() -> None:
    assert shipped.shipped_checkpoint() == ROOT / "models" / "ois-photo.safetensors"


def test_a_wheel_has_it_and_its_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch)
    for source, target in FILES.items():
        assert (ROOT / source).exists()
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).write_bytes(b"")
    found = shipped.shipped_checkpoint()
    assert found == tmp_path / "ois_runtime/models/ois-photo.safetensors"
    assert (found.parent / "NOTICE.md").exists()
    assert (ROOT / "models/ois-photo.safetensors").stat().st_size < 100e6  # what PyPI takes


def test_without_it_the_error_says_where_it_was_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="Install ois-deploy again"):
        shipped.shipped_checkpoint()


def test_its_name_stands_for_it_unless_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.named_checkpoint(None) == shipped.shipped_checkpoint()
    assert shipped.named_checkpoint(Path("ois-photo")) == shipped.shipped_checkpoint()
    assert shipped.named_checkpoint(Path("mine.safetensors")) == Path("mine.safetensors")
    Path("ois-photo").touch()
    assert shipped.named_checkpoint(Path("ois-photo")) == Path("ois-photo")
