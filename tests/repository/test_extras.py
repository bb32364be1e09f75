"""The extras of pyproject.toml fit together, and fit the documents, messages and `ois doctor`."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement

from ois_cli.packages import PACKAGES
from ois_runtime.engines.backends import EngineBackend
from support.documents import DOCUMENTS, ROOT
from support.extras import EXTRAS, PROJECT, requirements

PYTHONS = ("3.11", "3.12", "3.13", "3.14")


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_installs_one_onnx_runtime_over_the_other(extra: str) -> None:
    found = {"onnxruntime", "onnxruntime-gpu"} & requirements(extra).keys()
    if extra in ("cpu", "all", "dev"):
        assert found == {"onnxruntime"}
    elif extra in ("gpu", "tensorrt"):
        assert found == {"onnxruntime-gpu"}
    else:
        assert not found


def test_everything_but_the_embedded_server_allows_numpy_2_and_python_3_13() -> None:
    supported = PROJECT["requires-python"]
    assert all(Requirement(f"x{supported}").specifier.contains(python) for python in PYTHONS)
    base = {need.name: need for need in map(Requirement, PROJECT["dependencies"])}
    assert base["numpy"].specifier.contains("2.5.2")
    for extra in EXTRAS:
        for python in PYTHONS:
            found = requirements(extra, python)
            server = "nvidia-pytriton" in found
            assert server == (extra in ("serve", "dev", "all") and python < "3.13")
            assert ("numpy" in found and not found["numpy"].specifier.contains("2.5.2")) == server


def test_the_tests_install_no_libraries_of_nvidia_s() -> None:
    """They are gigabytes and come from an index of NVIDIA's."""
    assert not {"tensorrt", "onnxruntime-gpu"} & requirements("dev").keys()
    assert requirements("plans").keys() < requirements("tensorrt").keys()


def test_doctor_and_the_backends_name_extras_that_install_their_packages() -> None:
    for package in PACKAGES:
        if package.extra:
            assert package.distribution in requirements(package.extra), package
    assert {backend.extra for backend in EngineBackend} <= EXTRAS.keys()


def test_every_extra_that_documents_and_messages_name_exists() -> None:
    folders = ("benchmarks", "cli", "client", "docker", "export", "network", "runtime")
    code = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = set()
    for path in (*DOCUMENTS, *code, ROOT / "Dockerfile", ROOT / "Makefile"):
        text = path.read_text(encoding="utf-8")
        for names in re.findall(
            r"(?:ois-deploy|whl\)|[\"']\.)\\*\[([a-z,]+)\\*\]", text
        ) + re.findall(r"(?:ARG|--build-arg) EXTRAS=([a-z,]+)", text):
            for extra in names.split(","):
                assert extra in EXTRAS, f"{path.relative_to(ROOT)}: {extra}"
                found.add(extra)
    assert {"cpu", "gpu", "tensorrt", "plans", "serve", "export", "bench", "dev"} <= found
