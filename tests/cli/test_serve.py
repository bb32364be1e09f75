"""What `ois serve` prints without starting a server."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from ois_cli.main import main
from ois_export.repository import write_repository
from ois_runtime import gpu_driver as driver
from ois_runtime.engines.manifest import Manifest
from ois_runtime.gpu_driver import Gpu
from ois_runtime.gpu_driver import probe as probe_driver
from support.server.processes import needs_server
from support.tiny_engines import write_engines

pytestmark = needs_server


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine folder with its model repository."""
    folder = write_engines(tmp_path_factory.mktemp("engines"))
    write_repository(folder, Manifest.load(folder))
    return folder


@pytest.mark.parametrize("more", [[], ["--allow-client-shm"]])
def test_shared_memory_is_closed_by_default(engines: Path, more: list[str]) -> None:
    words = ["serve", f"--engines={engines}", "--print-command", "--cache-bytes=1000000", *more]
    command = [sys.executable, "-m", "ois_cli.main", *words]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "model-repository" in shown
    assert ("shared-memory" in shown) == (not more)


def test_an_unused_gpu_is_mentioned(
    engines: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def said(folder: Path) -> str:
        words = ["serve", f"--engines={folder}", "--print-command", "--cache-bytes=1000000"]
        assert main(words) == 0
        return capsys.readouterr().err

    found = Gpu("NVIDIA H200", 90, 141 * 2**30, (13, 1))
    monkeypatch.setattr(driver, "probe", lambda: found)
    line = "NVIDIA H200 is not used: these engines run on the CPU. --device cuda uses it\n"
    assert said(engines) == line

    plans = write_engines(tmp_path)
    manifest = Manifest.load(plans)
    named = {}
    for role in ("encoder", "decoder"):
        (plans / f"{role}.onnx").rename(plans / f"{role}.plan")
        named[role] = dataclasses.replace(getattr(manifest, role), file=f"{role}.plan")
    manifest = dataclasses.replace(manifest, **named)
    manifest.save(plans)
    write_repository(plans, manifest)
    assert said(plans) == ""

    monkeypatch.setattr(driver, "LIBRARY", "libnothing.so.1")
    monkeypatch.setattr(driver, "probe", probe_driver)
    assert said(engines) == ""
