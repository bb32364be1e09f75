"""Signals still work after an engine ran (see `ois_runtime.engines.signal_stack`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny_engines import write_engines

PROGRAM = """
import signal, sys
import numpy as np
from ois_client import Client

signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
for backend in ("onnxruntime", "openvino"):
    with Client(f"local:{sys.argv[1]}", backend=backend) as client:
        client.open(np.zeros((40, 56, 3), dtype=np.uint8)).click(20, 20)
    signal.raise_signal(signal.SIGUSR1)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bug is on Linux")
def test_a_signal_after_an_engine_ran_reaches_its_handler(tmp_path: Path) -> None:
    engines = write_engines(tmp_path / "engines")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(engines)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "handled"]), done.stderr
