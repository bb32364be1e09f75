"""Results are checked before the work and written whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ois_cli import files
from ois_client.contract.errors import InvalidInput, OutputError


def test_contents_arrive_and_no_temporary_file_stays(tmp_path: Path) -> None:
    old = tmp_path / "a.png"
    old.write_bytes(b"old")
    files.write_files({old: b"new", tmp_path / "b.png": b"b"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a.png": b"new",
        "b.png": b"b",
    }


def test_a_link_keeps_pointing_at_its_file(tmp_path: Path) -> None:
    place = tmp_path / "place.png"
    link = tmp_path / "link.png"
    link.symlink_to(place)
    files.write_files({link: b"data"})
    assert link.is_symlink()
    assert place.read_bytes() == b"data"


def test_a_full_disk_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files._write_through
    room = [True, False]

    def fill_up(path: Path, data: bytes) -> None:
        if not room.pop(0):
            path.write_bytes(data[:1])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(files, "_write_through", fill_up)
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    first.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"cannot write .*b\.png: No space left on device"):
        files.write_files({first: b"new", second: b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert first.read_bytes() == b"old"


def test_a_device_that_is_really_full_is_an_output_error() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left"):
        files._write_through(full, b"data")


@pytest.mark.parametrize("name", ["mask", "mask.jpg", "mask.tiff", "mask.png.txt"])
def test_a_mask_must_be_lossless(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"ends in \.png"):
        files.check_output(tmp_path / name, files.MASK_FORMATS)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        files.check_output(tmp_path / "no" / "x.png", files.PICTURE_FORMATS)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        files.check_output(tmp_path / "folder.png", files.PICTURE_FORMATS)


def test_outputs_are_files_of_their_own(tmp_path: Path) -> None:
    image = tmp_path / "photo.png"
    with pytest.raises(InvalidInput, match="is the input image"):
        files.check_distinct([tmp_path / "." / "photo.png"], [image])
    with pytest.raises(InvalidInput, match="named for two outputs"):
        files.check_distinct([tmp_path / "a.png", tmp_path / "a.png"], [image])


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot make the folder"):
        files.make_folder(tmp_path / "file" / "below")
