"""Environments of their own for the real programs that the integrations are tested with.

Their pinned packages conflict with ours. `environment` installs them with uv, which takes seconds
when its cache is warm, into `.cache/environments/`, and reuses what is there. Where the packages
cannot be installed, the test is skipped and says why.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.documents import ROOT

FOLDER = ROOT / ".cache" / "environments"
#: Downloads of some programs are large.
PATIENCE_S = 900


def uv(*arguments: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """Run uv; skips the test if uv is not installed."""
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed")
    return subprocess.run(
        [sys.executable, "-m", "uv", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=ROOT,
        env={**os.environ, "UV_PYTHON_PREFERENCE": "system", "UV_HTTP_RETRIES": "1"},
    )


def environment(name: str, *requirements: str, python: str = sys.executable) -> Path:
    """The Python of an environment with `requirements`, made if there is none yet.

    requirements: as for pip; `-e` and a path for this package. Skips the test if they cannot be
    installed.
    """
    ours = (ROOT / "pyproject.toml").read_text() if "-e" in requirements else ""
    key = hashlib.sha256("\n".join([*requirements, python, ours]).encode()).hexdigest()[:10]
    folder = FOLDER / f"{name}-{key}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers may want the same one
        stamp = folder / "complete"
        if not stamp.exists():
            for outdated in FOLDER.glob(f"{name}-??????????"):
                shutil.rmtree(outdated)
            for command in (
                ("venv", "--clear", "--python", python, str(folder)),
                ("pip", "install", "--python", str(folder / "bin" / "python"), *requirements),
            ):
                ran = uv(*command)
                if ran.returncode:
                    last = (ran.stderr.strip().splitlines() or ["uv failed"])[-1].strip()
                    pytest.skip(f"{name} cannot be installed here: {last}")
            stamp.touch()
    return folder / "bin" / "python"
