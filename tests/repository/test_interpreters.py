"""The client's tests on the other Pythons that this package supports.

uv finds an interpreter on this machine or fetches one. Where there is none, the test is skipped and
says so; that its packages exist as wheels for that Python is then still checked.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

from support.documents import ROOT
from support.environments import environment, uv
from support.extras import PROJECT

#: Tests of the client's logic and of engines on the CPU, which need no other extra.
TESTS = ("tests/client/contract", "tests/client/wire", "tests/client/sessions/test_session.py")
OTHERS = [
    version
    for version in ("3.11", "3.12", "3.13", "3.14")
    if version != f"{sys.version_info.major}.{sys.version_info.minor}"
]


@functools.cache
def interpreter(version: str) -> tuple[str, str]:
    """uv's path of an interpreter and "", or "" and why there is none."""
    found = uv("python", "find", "--no-python-downloads", version, timeout_s=60)
    if found.returncode == 0:
        return found.stdout.strip(), ""
    try:
        fetched = uv("python", "install", version, timeout_s=90)
    except subprocess.TimeoutExpired:
        return "", "uv could not fetch it in 90 s"
    if fetched.returncode:
        return "", fetched.stderr.strip().splitlines()[-1].strip()
    return uv("python", "find", version).stdout.strip(), ""


@pytest.mark.parametrize("version", OTHERS)
def test_the_client_works(version: str) -> None:
    python, reason = interpreter(version)
    if not python:
        pytest.skip(f"no Python {version} here: {reason}")
    here = environment(
        f"python{version}",
        "-e",
        f"{ROOT}[cpu]",
        "pytest>=8.3,<10",
        "hypothesis>=6.100,<7",
        "onnx>=1.18,<2",
        "pycocotools>=2.0.8,<3",
        python=python,
    )
    ran = subprocess.run(
        [str(here), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *TESTS],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]


@pytest.mark.parametrize("version", ["3.11", "3.14"])
def test_every_package_of_the_client_and_the_engines_is_a_wheel(version: str) -> None:
    """On the oldest and the newest Python, for Linux: nothing has to be compiled."""
    found = uv(
        *("pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"),
        *("--python-version", version, "--python-platform", "x86_64-manylinux_2_28"),
        *("--extra", "cpu", "--extra", "notebook", "pyproject.toml"),
    )
    if found.returncode and "dns" in found.stderr.lower():
        pytest.skip("the index cannot be reached")
    assert found.returncode == 0, found.stderr
    names = {line.partition("==")[0] for line in found.stdout.splitlines()}
    assert {"numpy", "onnxruntime", "openvino", "tritonclient", "anywidget"} <= names
    assert f":: {version}" in "\n".join(PROJECT["classifiers"])
