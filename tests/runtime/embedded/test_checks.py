"""Machines on which the embedded server cannot run are found before it starts."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ois_client.contract.errors import EngineError
from ois_runtime.embedded import checks
from ois_runtime.embedded.checks import check_machine, check_shared_memory, check_stub
from ois_runtime.embedded.guard import kill_group
from ois_runtime.embedded.staging import Wheel, environment, find_wheel, make_stage
from support.server.processes import needs_server

pytestmark = needs_server


def test_this_machine_passes() -> None:
    check_machine(find_wheel(), 2**20)


def test_a_missing_libpython_is_named(tmp_path: Path) -> None:
    wheel = find_wheel()
    stub = tmp_path / "stub"
    data = wheel.stub.read_bytes()
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0".encode()
    assert name in data
    stub.write_bytes(data.replace(name, name.replace(b"libpython", b"nopython_")))
    stub.chmod(0o755)
    with pytest.raises(EngineError, match="apt-get install libpython"):
        check_stub(stub, environment(wheel, {"PATH": "/usr/bin:/bin"}))


def test_a_stub_that_does_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not run"):
        check_stub(tmp_path / "missing", {})


def test_too_little_shared_memory_says_how_to_get_more() -> None:
    free = shutil.disk_usage("/dev/shm").free
    check_shared_memory(2**20)
    for cache_bytes in (free, 0):
        with pytest.raises(EngineError, match="--shm-size"):
            check_shared_memory(cache_bytes)
    assert 0 < checks.default_cache_bytes() <= 2 * 2**30


@pytest.mark.parametrize("version", ["2.0.2", "2.5.5"])
def test_numpy_2_is_refused_with_the_reason(version: str) -> None:
    with pytest.raises(EngineError, match="empty tensors"):
        checks._check_numpy(version)


@pytest.mark.parametrize(
    ("version", "system"),
    [
        ((3, 13), ("Linux", "x86_64")),
        ((3, 10), ("Linux", "x86_64")),
        ((3, 11), ("Darwin", "arm64")),
        ((3, 11), ("Linux", "aarch64")),
    ],
)
def test_other_pythons_and_systems_are_refused(
    version: tuple[int, int], system: tuple[str, str]
) -> None:
    with pytest.raises(EngineError, match="embedded server"):
        checks._check_python(version, system)


@pytest.mark.parametrize("libc", [("glibc", "2.31"), ("", "")])
def test_an_old_or_other_c_library_is_refused(libc: tuple[str, str]) -> None:
    with pytest.raises(EngineError, match=r"glibc 2\.35"):
        checks._check_glibc(libc)


@pytest.mark.parametrize("limit", [0, 64, 255])
def test_too_few_open_files_are_refused(limit: int) -> None:
    with pytest.raises(EngineError, match=rf"may open {limit} files.*ulimit -n"):
        checks._check_descriptors(limit)
    for enough in (256, 2**20, resource.RLIM_INFINITY):
        checks._check_descriptors(enough)


def test_a_missing_wheel_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"ois-deploy\[serve\]"):
        find_wheel()


def test_a_damaged_wheel_is_named(tmp_path: Path) -> None:
    assert not Wheel(tmp_path).binary.exists()
    stage = make_stage(find_wheel())
    try:
        files = {path.name for path in (stage.backends / "python").iterdir()}
        assert files == {path.name for path in find_wheel().backend_files}
        assert not any(path.is_symlink() for path in stage.backends.rglob("*"))
    finally:
        stage.remove()
    assert not stage.folder.exists()


def test_a_process_group_is_killed_and_a_second_time_is_fine() -> None:
    parent = subprocess.Popen(["bash", "-c", "sleep 60 & sleep 60"], start_new_session=True)
    kill_group(parent.pid)
    assert parent.wait(timeout=60) == -9
    kill_group(parent.pid)


def test_a_temporary_folder_with_too_long_a_name_for_a_socket_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(EngineError, match="Set TMPDIR to a shorter one"):
        make_stage(find_wheel())
    assert not list(folder.iterdir())
