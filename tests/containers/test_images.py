"""The containers' files obey the rules of `support/containers/lint.py`, and each rule is effective.

These tests do not run the images; `docker/verify_cpu_target.sh` builds and runs the target `cpu`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from ois_client.contract.errors import EngineError, InvalidInput
from ois_export.repository import write_repository
from ois_runtime.edge import rules
from ois_runtime.engines.manifest import Manifest
from ois_runtime.gpu_driver import Gpu
from ois_runtime.serving.configuration import ServingOptions
from ois_runtime.tensorrt.library import plan_key
from support.containers.lint import lint_compose, lint_dockerfile, parse
from support.tiny_engines import write_engines

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "compose.yaml").read_text()
NGINX_CONF = ROOT / "docker" / "nginx_conf.py"
ONE_SERVER = [
    *("--folder", "/tmp", "--http", "127.0.0.1:1", "--grpc", "127.0.0.1:2"),
    *("--http-listen", "127.0.0.1:3", "--grpc-listen", "127.0.0.1:4"),
]


def test_the_dockerfile_obeys_every_rule() -> None:
    assert lint_dockerfile(DOCKERFILE, ROOT) == []
    assert set(parse(DOCKERFILE).stages) == {
        *("python", "wheel", "engines", "graphs", "cpu", "gpu")
    }


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("ARG DEBIAN_TAG=bookworm-20250520-slim", "ARG DEBIAN_TAG=bookworm-slim", "not pinned"),
        ("ARG TRITON_RELEASE=26.08", "ARG TRITON_RELEASE", "not pinned"),
        ("COPY triton_models triton_models", "COPY tritons tritons", "tritons does not exist"),
        ("COPY models models", "COPY tests models", "left out by .dockerignore"),
        ("COPY --from=engines", "COPY --from=engine", "no stage engine"),
        ("COPY client client", "ADD https://example.org/x client", "ADD"),
        ("RUN pip wheel", "RUN curl x && pip wheel", "elsewhere"),
        ("--no-install-recommends nginx", "nginx", "--no-install-recommends"),
        ("rm -rf /var/lib/apt/lists/* /var/log", "rm -rf /var/log", "lists stay"),
        ("USER 10001:10001", "USER root", "runs as root"),
        ("USER 10001:10001", "USER ois", "not a number"),
        ("USER 10001:10001", "", "runs as root"),
        ("HEALTHCHECK --interval", "LABEL --interval", "no HEALTHCHECK"),
        ("--start-period=120s ", "", "no time to start"),
        ("docker/healthcheck.py", "docker/health.py", "health.py does not exist"),
        ("docker/cpu-entrypoint.sh", "docker/cpu.sh", "cpu.sh does not exist"),
        ("docker/cpu-entrypoint.sh", "docker/healthcheck.py", "not executable"),
        ('ENTRYPOINT ["/opt/ois/docker/cpu', 'CMD ["/opt/ois/docker/cpu', "no ENTRYPOINT"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "STOPSIGNAL"),
        ("ENV OIS_ENGINES=", "ENV OIS_TOKEN=abc OIS_ENGINES=", "a secret"),
        ("AS gpu", "AS cuda", "no target gpu"),
    ],
)
def test_each_rule_for_the_dockerfile_is_effective(before: str, after: str, complaint: str) -> None:
    assert before in DOCKERFILE
    problems = lint_dockerfile(DOCKERFILE.replace(before, after), ROOT)
    assert any(complaint in problem for problem in problems), problems


def test_compose_obeys_every_rule() -> None:
    assert lint_compose(COMPOSE, DOCKERFILE, ROOT) == []
    profiles = {name: s["profiles"] for name, s in yaml.safe_load(COMPOSE)["services"].items()}
    assert profiles == {
        "cpu": ["cpu"],
        "gpu": ["gpu"],
        "replica-1": ["replicas"],
        "replica-2": ["replicas"],
        "proxy": ["replicas"],
    }


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("target: cpu", "target: cup", "no target cup"),
        ("read_only: true", "read_only: false", "can be written to"),
        ("cap_drop: [ALL]", "cap_drop: []", "keeps capabilities"),
        ("no-new-privileges:true", "label:disable", "may gain privileges"),
        ("init: true", "init: false", "no init process"),
        ("profiles: [gpu]", "profiles: []", "always starts"),
        ("/tmp:rw,exec,", "/tmp:rw,", "with exec"),
        ("shm_size: 3gb", "", "no shm_size"),
        ("shm_size: 3gb", "shm_size: 1gb", "too small"),
        ("proxy-entrypoint.sh", "proxy.sh", "proxy.sh does not exist"),
        ('"127.0.0.1:8001:8001"', '"8001:8001"', "beyond this machine"),
    ],
)
def test_each_rule_for_compose_is_effective(before: str, after: str, complaint: str) -> None:
    assert before in COMPOSE
    problems = lint_compose(COMPOSE.replace(before, after), DOCKERFILE, ROOT)
    assert any(complaint in problem for problem in problems), problems


@pytest.mark.parametrize("script", sorted((ROOT / "docker").glob("*.sh")), ids=lambda p: p.name)
def test_shell_scripts_parse_and_stop_at_the_first_error(script: Path) -> None:
    text = script.read_text()
    shell = "bash" if text.startswith("#!/usr/bin/env bash") else "sh"
    subprocess.run([shell, "-n", script], check=True)
    assert re.search(r"^set -eu", text, re.M)
    assert os.access(script, os.X_OK)


def test_every_script_an_entrypoint_calls_is_there() -> None:
    for script in (ROOT / "docker").glob("*.sh"):
        for name in re.findall(r"\$here/([\w.-]+)", script.read_text()):
            assert (ROOT / "docker" / name).is_file(), f"{script.name} calls {name}"


def test_nginx_lets_in_the_largest_picture_that_the_server_takes() -> None:
    allowed = f"client_max_body_size {rules.MAX_REQUEST_BYTES};"
    assert allowed in run_nginx_conf(*ONE_SERVER).stdout
    assert ServingOptions().max_image_bytes + 2**20 < rules.MAX_REQUEST_BYTES


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--http", "replica-2:8000", "--grpc", "replica-2:8001"],
        ["--metrics", "127.0.0.1:5", "--metrics-listen", "127.0.0.1:6"],
        ["--local-listen", "127.0.0.1:7"],
        ["--certificate", "/tls/c.pem", "--key", "/tls/k.pem"],
    ],
    ids=["one", "two", "metrics", "local", "tls"],
)
def test_the_nginx_configuration_is_filled_in(more: list[str]) -> None:
    done = run_nginx_conf(*ONE_SERVER, *more)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert not re.search(r"@[A-Z_]+@", text)
    assert text.count("{") == text.count("}")
    for word in more[1::2]:
        assert word in text
    assert ("listen 127.0.0.1:4 ssl http2;" in text) == ("--certificate" in more)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--http", "x:1; include /etc/passwd"], "HOST:PORT"),
        (["--folder", "/tmp; }"], "absolute"),
        (["--certificate", "/tls/c.pem"], "expected both"),
        (["--metrics", "x:1"], "expected both"),
    ],
)
def test_the_nginx_configuration_refuses(more: list[str], complaint: str) -> None:
    done = run_nginx_conf(*ONE_SERVER, *more)
    assert done.returncode == 2
    assert complaint in done.stderr


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed: apt-get install")
def test_nginx_itself_accepts_the_configuration(tmp_path: Path) -> None:
    arguments = [*ONE_SERVER, "--folder", str(tmp_path), "--local-listen", "127.0.0.1:7"]
    more = ["--metrics", "127.0.0.1:5", "--metrics-listen", "127.0.0.1:6"]
    (tmp_path / "nginx.conf").write_text(run_nginx_conf(*arguments, *more).stdout)
    nginx = ["nginx", "-t", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(nginx, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("NVIDIA A10G", "nvidia_a10g-sm86-tensorrt11.2.1.2-abcdef"),
        ("", "unknown-sm86-tensorrt11.2.1.2-abcdef"),
        ("../../etc", "etc-sm86-tensorrt11.2.1.2-abcdef"),
    ],
)
def test_plans_are_kept_apart_by_gpu_tensorrt_and_model(gpu: str, expected: str) -> None:
    key = plan_key(Gpu(gpu, 86, 24 * 2**30, (13, 0)), "11.2.1.2", "abcdef")
    assert key == expected
    assert Path(key).name == key


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """Engines with their repository, as `ois export` writes them."""
    engines = write_engines(tmp_path / "engines")
    write_repository(engines, Manifest.load(engines))
    return engines


def says(text: str, code: int = 0) -> tuple[str, ...]:
    """A stand-in for `ois build` that prints `text`, and its arguments to stderr."""
    program = f"import sys; sys.stderr.write(repr(sys.argv[1:])); print({text!r}); sys.exit({code})"
    return sys.executable, "-c", program


def test_the_gpu_entrypoint_serves_what_was_built(
    served: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIS_BUILD", "--objects 1 --shape '1022x574'")
    chosen, line = gpu_entrypoint().choose_repository(
        tmp_path / "graphs",
        tmp_path / "plans",
        without_plans="stop",
        build=says(json.dumps({"folder": str(served)})),
    )
    assert chosen == (served / "repository").resolve()
    assert line == f"serving the TensorRT engines in {served}"
    words = [str(tmp_path / "graphs"), "--output", str(tmp_path / "plans"), "--json"]
    assert repr([*words, "--objects", "1", "--shape", "1022x574"]) in capfd.readouterr().err


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (says(json.dumps({"error": {"message": "no NVIDIA driver"}}), 2), "no NVIDIA driver"),
        (says("Traceback", 1), "exit code 1, see the log"),
        (says("{}"), "exit code 0, see the log"),
        ((sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"), "ended by signal 11"),
    ],
    ids=["refused", "failed", "silent", "crashed"],
)
def test_the_gpu_entrypoint_falls_back_only_if_configured(
    build: tuple[str, ...], reason: str, served: Path, tmp_path: Path
) -> None:
    entry = gpu_entrypoint()
    with pytest.raises(EngineError, match=f"{reason}.*OIS_WITHOUT_PLANS=onnx"):
        entry.choose_repository(served, tmp_path, without_plans="stop", build=build)
    chosen, line = entry.choose_repository(served, tmp_path, without_plans="onnx", build=build)
    assert chosen == (served / "repository").resolve()
    assert reason in line
    assert line.endswith("serving tiny-test with ONNX Runtime")
    with pytest.raises(InvalidInput, match="'cpu'; expected stop or onnx"):
        entry.choose_repository(served, tmp_path, without_plans="cpu", build=build)


def test_the_gpu_entrypoint_runs_ois_build_itself(served: Path, tmp_path: Path) -> None:
    """The real `ois build` refuses engines for a CPU."""
    with pytest.raises(EngineError, match="holds engines for cpu"):
        gpu_entrypoint().choose_repository(served, tmp_path / "plans", without_plans="stop")
    assert not (tmp_path / "plans").exists()


def test_the_gpu_entrypoint_closes_apis_to_clients(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, chosen = gpu_entrypoint(), served / "repository"
    monkeypatch.setenv("OIS_CACHE_BYTES", str(2**20))
    words, more = entry.command(chosen, "s3cret", "t0ken", ["--log-verbose=1"])
    assert more["OIS_CACHE_BYTES"] == str(2**20)
    assert words[0] == "tritonserver"
    assert words[-1] == "--log-verbose=1"
    for option in ("--grpc-restricted-protocol", "--http-restricted-api"):
        rules = [word for word in words if word.startswith(f"{option}=")]
        closed, guarded = rules
        assert closed.endswith(":secret=s3cret")
        assert guarded.endswith(":authorization=t0ken")
        assert {"model-repository", "shared-memory", "trace", "logging"} <= apis(closed)
        assert "inference" in apis(guarded)


def test_the_gpu_entrypoint_passes_the_token_on_only_for_a_salt(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, chosen = gpu_entrypoint(), served / "repository"
    monkeypatch.setenv("OIS_CACHE_BYTES", str(2**20))
    monkeypatch.delenv("OIS_CACHE_SALT", raising=False)
    words, _ = entry.command(chosen, "s3cret", None, [])
    assert not any("header-forward" in word for word in words)
    monkeypatch.setenv("OIS_CACHE_SALT", "token")
    words, _ = entry.command(chosen, "s3cret", None, [])
    assert sum("header-forward-pattern" in word for word in words) == 2


def test_the_gpu_entrypoint_makes_room_for_features_on_the_gpu(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond Triton's pool, every tensor of every click would be allocated and freed by CUDA."""
    entry, chosen = gpu_entrypoint(), served / "repository"
    monkeypatch.setenv("OIS_CACHE_BYTES", str(2**20))
    option = "--cuda-memory-pool-byte-size"
    for device, wanted in (
        ("", []),
        ("cpu", []),
        ("cuda", [f"{option}=0:{2**20 + 2**29}"]),
        ("cuda:1", [f"{option}=1:{2**20 + 2**29}"]),
    ):
        monkeypatch.setenv("OIS_FEATURE_DEVICE", device)
        words, more = entry.command(chosen, "s3cret", None, [])
        assert [word for word in words if word.startswith(option)] == wanted
        assert more["OIS_FEATURE_DEVICE"] == device


def test_features_stay_on_the_gpu_by_default(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image has PyTorch, and nothing has to be set. Shared memory needs no room for them."""
    assert re.search(r"^ARG EXTRAS=cpu,plans,network$", DOCKERFILE, re.M)
    entry, chosen = gpu_entrypoint(), served / "repository"
    monkeypatch.delenv("OIS_FEATURE_DEVICE", raising=False)
    monkeypatch.delenv("OIS_CACHE_BYTES", raising=False)
    monkeypatch.setattr(entry, "check_shared_memory", None)
    words, more = entry.command(chosen, "s3cret", None, [])
    assert more == {"OIS_FEATURE_DEVICE": "cuda:0", "OIS_CACHE_BYTES": str(2**31)}
    assert f"--cuda-memory-pool-byte-size=0:{2**31 + 2**29}" in words
    assert entry.feature_device({"OIS_FEATURE_DEVICE": ""}) == ""
    assert entry.feature_device({}, default="") == ""


def apis(rule: str) -> set[str]:
    return set(rule.split("=", 1)[1].split(":")[0].split(","))


def run_nginx_conf(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(NGINX_CONF), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def gpu_entrypoint() -> ModuleType:
    sys.path.insert(0, str(ROOT / "docker"))
    try:
        path = ROOT / "docker" / "gpu_entrypoint.py"
        spec = importlib.util.spec_from_file_location("gpu_entrypoint", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "docker"))
    return module
