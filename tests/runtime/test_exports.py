"""`import ois_runtime` loads nothing, and every name that it exports is there when asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import ois_runtime


def test_every_exported_name_is_there() -> None:
    assert ois_runtime.__all__ == sorted(ois_runtime.__all__)
    for name in ois_runtime.__all__:
        assert getattr(ois_runtime, name).__name__ == name
        assert name in dir(ois_runtime)
    with pytest.raises(AttributeError, match="no attribute 'load_engine'"):
        ois_runtime.load_engine  # noqa: B018


def test_importing_the_package_imports_nothing_else() -> None:
    script = (
        "import json, sys; before = set(sys.modules); import ois_runtime\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"numpy", "torch", "onnxruntime", "openvino", "ois_client"}
