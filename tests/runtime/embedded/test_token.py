"""A token file without a token never opens a server: every launcher reads it by one rule."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ois_client.contract.errors import InvalidInput
from ois_export.repository import write_repository
from ois_runtime.embedded.options import ServerOptions, check_token, token_from_environment
from ois_runtime.engines.manifest import Manifest
from support.tiny_engines import write_engines

DOCKER = Path(__file__).resolve().parents[3] / "docker"
WRONG = ["", "\n", "  \n", "a,b", "two words", "smörgås", "a:b", "a=b"]


def file_with(text: str, folder: Path) -> str:
    file = folder / "token"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_where_a_token_comes_from(tmp_path: Path) -> None:
    assert token_from_environment({}) is None
    assert token_from_environment({"OIS_TOKEN": "", "OIS_TOKEN_FILE": ""}) is None
    assert token_from_environment({"OIS_TOKEN": "open"}) == "open"
    file = file_with("sesame\n", tmp_path)
    assert token_from_environment({"OIS_TOKEN": "open", "OIS_TOKEN_FILE": file}) == "sesame"


@pytest.mark.parametrize("text", WRONG)
def test_a_file_without_a_usable_token_is_named(text: str, tmp_path: Path) -> None:
    file = file_with(text, tmp_path)
    with pytest.raises(InvalidInput, match=file):
        token_from_environment({"OIS_TOKEN": "open", "OIS_TOKEN_FILE": file})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nowhere cannot be read"):
        token_from_environment({"OIS_TOKEN_FILE": str(tmp_path / "nowhere")})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="binary cannot be read"):
        token_from_environment({"OIS_TOKEN_FILE": str(tmp_path / "binary")})


@pytest.mark.parametrize("token", ["", "a,b", "two words", "smörgås", "a:b", "a=b"])
def test_the_environment_and_the_servers_options_keep_the_same_rule(token: str) -> None:
    with pytest.raises(InvalidInput):
        check_token(token)
    with pytest.raises(InvalidInput):
        ServerOptions(token=token)
    if token:
        with pytest.raises(InvalidInput):
            token_from_environment({"OIS_TOKEN": token})


# -- the launchers -----------------------------------------------------------------------------


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    folder = write_engines(tmp_path / "engines")
    write_repository(folder, Manifest.load(folder))
    return folder


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OIS_")}
    return subprocess.run(
        words,
        env={**inherited, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def cpu_container(folder: Path) -> list[str]:
    """The real entry point with a proxy that does nothing, up to the command it would run."""
    for name in ("cpu-entrypoint.sh", "supervise.py"):
        shutil.copy(DOCKER / name, folder)
    proxy = folder / "start-nginx.sh"
    proxy.write_text("#!/bin/sh\n")
    proxy.chmod(0o755)
    return [str(folder / "cpu-entrypoint.sh"), "--print-command"]


def gpu_container(folder: Path) -> list[str]:  # noqa: ARG001
    """The real entry point; there is no tritonserver and no TensorRT here."""
    return [sys.executable, str(DOCKER / "gpu_entrypoint.py")]


@pytest.mark.parametrize("launcher", [cpu_container, gpu_container])
def test_an_empty_token_file_ends_a_container(
    launcher: object, engines: Path, tmp_path: Path
) -> None:
    words = launcher(tmp_path)  # type: ignore[operator]
    file = file_with("\n", tmp_path)
    more = {"OIS_ENGINES": str(engines), "OIS_CACHE_BYTES": str(2**20)}
    done = run(words, OIS_TOKEN_FILE=file, OIS_WITHOUT_PLANS="onnx", **more)
    assert done.returncode not in (0, None)
    assert f"the token file {file}" in done.stderr


def test_the_cpu_container_takes_its_token_from_a_file(engines: Path, tmp_path: Path) -> None:
    words = cpu_container(tmp_path)
    more = {"OIS_ENGINES": str(engines), "OIS_CACHE_BYTES": str(2**20), "OIS_CACHE_TTL_S": "77"}
    opened = run(words, OIS_TOKEN="", **more)
    assert opened.returncode == 0, opened.stderr
    assert "authorization=" not in opened.stdout
    guarded = run(words, OIS_TOKEN_FILE=file_with("s3same\n", tmp_path), **more)
    assert guarded.returncode == 0, guarded.stderr
    assert "authorization=$OIS_TOKEN" in guarded.stdout
    assert "s3same" not in guarded.stdout
    for variable, value in (("OIS_CACHE_BYTES", 2**20), ("OIS_CACHE_TTL_S", 77.0)):
        assert f'export {variable}="{value}"' in guarded.stdout


def test_a_health_check_without_a_usable_token_says_so(tmp_path: Path) -> None:
    file = file_with("", tmp_path)
    done = run([sys.executable, str(DOCKER / "healthcheck.py")], OIS_TOKEN_FILE=file)
    assert done.returncode == 1
    assert f"unhealthy: the token file {file}: got a token that is empty" in done.stdout
