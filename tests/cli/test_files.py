"""Output paths are checked before a command does any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from ois_cli import files
from ois_client.contract.errors import InvalidInput, OutputError


@pytest.mark.parametrize("name", ["mask", "mask.jpg", "mask.tiff", "mask.png.txt"])
def test_a_mask_must_be_lossless(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"ends in \.png"):
        files.check_output(tmp_path / name, files.MASK_FORMATS)


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        files.check_output(tmp_path / "no" / "x.png", files.PICTURE_FORMATS)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        files.check_output(tmp_path / "folder.png", files.PICTURE_FORMATS)


def test_outputs_differ_from_each_other_and_from_the_inputs(tmp_path: Path) -> None:
    image = tmp_path / "photo.png"
    with pytest.raises(InvalidInput, match="is also an input"):
        files.check_distinct([tmp_path / "." / "photo.png"], [image])
    with pytest.raises(InvalidInput, match="two outputs have the name"):
        files.check_distinct([tmp_path / "a.png", tmp_path / "a.png"], [image])


def test_a_folder_inside_a_file_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot create the folder"):
        files.make_folder(tmp_path / "file" / "below")
