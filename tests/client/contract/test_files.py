"""Files are written whole or not at all; journals survive a crash and a full disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from ois_client.contract import files
from ois_client.contract.errors import InvalidInput, OutputError
from ois_client.contract.files import LineFile


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


def test_a_function_may_write_the_bytes(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"a")
        file.write(b"b")

    files.write_file(tmp_path / "a.bin", write)
    assert (tmp_path / "a.bin").read_bytes() == b"ab"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("full")])
def test_a_function_that_fails_leaves_the_old_file(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(OutputError, match=r"cannot write .*a\.bin: full; no file was changed"):
        files.write_file(path, fail)
    assert [one.name for one in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old"


def test_an_error_of_another_kind_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_file(tmp_path / "a.bin", fail)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        files.write_file(tmp_path / "no" / "a.bin", b"data")


def test_a_file_that_cannot_be_put_in_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*b: .*; 1 of 2 files was replaced"):
        files.write_files({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


# -- line files ---------------------------------------------------------------------------------


def test_lines_are_appended_and_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": ')
    lines = LineFile(path)
    assert lines.read() == b'{"a": 1}\n{"a": '
    lines.drop_cut_off()
    lines.append({"a": 2})
    assert lines.read() == b'{"a": 1}\n{"a": 2}\n'
    lines.close()


def test_two_processes_cannot_write_one_line_file(tmp_path: Path) -> None:
    first = LineFile(tmp_path / "lines.jsonl")
    with pytest.raises(OutputError, match="another process is writing"):
        LineFile(tmp_path / "lines.jsonl")
    first.close()
    LineFile(tmp_path / "lines.jsonl").close()
    with pytest.raises(OutputError, match="cannot write"):
        LineFile(tmp_path / "no" / "lines.jsonl")


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path: Path) -> None:
    lines = LineFile(tmp_path / "lines.jsonl")
    lines.append({"a": 1})

    class Full:
        """Writes half a line, then the disk is full."""

        def __init__(self, file: Any) -> None:
            self._file = file
            self._room = True

        def write(self, data: bytes) -> int:
            if not self._room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._room = False
            return self._file.write(data[:3])

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    whole = lines._file
    lines._file = Full(whole)
    with pytest.raises(OutputError, match="No space left on device"):
        lines.append({"a": 2})
    lines._file = whole
    lines.append({"a": 3})
    assert lines.read() == b'{"a": 1}\n{"a": 3}\n'
    lines.close()


def test_lines_are_replayed_and_what_was_cut_off_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    file, taken = LineFile(path), []
    file.replay(lambda entry: taken.append(entry["a"]))
    assert taken == [1, 2]
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
    with pytest.raises(InvalidInput, match="line 1, is damaged"):
        file.replay(lambda entry: entry["b"])
    with pytest.raises(OutputError, match="another process"):
        LineFile(path)  # so nobody can clear what somebody writes
    file.clear()
    file.append({"b": 1})
    file.close()
    assert path.read_bytes() == b'{"b": 1}\n'


def test_a_secret_is_readable_by_its_user_only_from_its_first_byte(tmp_path: Path) -> None:
    seen = []

    def write(file: BinaryIO) -> None:
        seen.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))
        file.write(b"secret")

    path = tmp_path / "token"
    path.write_bytes(b"open to all")
    files.write_file(path, write, mode=0o600)
    assert seen == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"secret"
