"""What `import ois_export` offers, and that it stays light."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import ois_export


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded after `code` in a new process."""
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys; print(json.dumps([*sys.modules]))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return set(json.loads(printed))


def test_the_exported_names() -> None:
    assert ois_export.__all__ == [
        "BuildOptions",
        "Limits",
        "Ranges",
        "Target",
        "build_engines",
        "export_engines",
        "trtexec_commands",
        "write_repository",
    ]
    for name in ois_export.__all__:
        assert getattr(ois_export, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'export_engine'"):
        ois_export.export_engine  # noqa: B018


@pytest.mark.parametrize("code", ["import ois_export", "from ois_export import Target"])
def test_importing_the_package_loads_nothing_heavy(code: str) -> None:
    assert not loaded_by(code) & {"torch", "onnx", "onnxruntime", "ois_network", "ois_runtime"}


def test_an_export_for_a_cpu_loads_nothing_of_tensorrt() -> None:
    code = "from ois_export import Target, export_engines\nTarget.CPU.rules()"
    loaded = loaded_by(code)
    assert "ois_export.export" in loaded
    assert not {name for name in loaded if name.startswith("ois_export.tensorrt")}
