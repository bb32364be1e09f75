"""`ois doctor` says what works on this machine and how to fix the rest."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from ois_benchmarks import machine
from ois_cli import doctor, packages
from ois_cli.doctor import Status
from ois_cli.main import main
from ois_cli.packages import Package, PackageState
from ois_client.contract.errors import EngineError
from ois_runtime.gpu_driver import Gpu
from support.wire_server import WireServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OIS_ENGINES", raising=False)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two packages: importing all of them, as `doctor` does, takes half a minute."""
    few = (Package("numpy", "numpy", "", "arrays"), Package("no-such", "no_such", "cpu", "x"))
    monkeypatch.setattr(packages, "PACKAGES", few)


@pytest.mark.usefixtures("_quick")
def test_report_as_json_names_every_area(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True
    assert {finding["area"] for finding in report["findings"]} == {
        "python",
        "package",
        "hardware",
        "serving",
        "engines",
    }
    by_name = {finding["name"]: finding for finding in report["findings"]}
    assert by_name["Python"]["detail"].startswith(f"3.{sys.version_info.minor}.")
    assert by_name["numpy"]["status"] == "ok"
    assert by_name["no-such"]["status"] == "absent"
    assert by_name["no-such"]["fix"] == "pip install 'ois-deploy[cpu]'"
    assert by_name["engines"]["fix"].startswith("ois export")


@pytest.mark.usefixtures("_quick")
def test_report_for_people_keeps_square_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "ois-deploy[cpu]" in capsys.readouterr().out


def test_a_missing_basic_package_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    optional = Package("no-extra", "no_extra", "cpu", "x")
    basic = [Package(f"no-{name}", f"no_{name}", "", "arrays") for name in ("such", "other")]
    monkeypatch.setattr(packages, "PACKAGES", (optional, *basic))
    assert main(["doctor", "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["healthy"] is False
    assert said.err.endswith(
        "broken parts of the base install: no-such, no-other; pip install 'ois-deploy'\n"
    )


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_is_asked_and_a_wrong_token_is_said(
    protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with WireServer() as server:
        server.token = "s3cret"
        url = server.urls[protocol]
        assert main(["doctor", "--json", "--url", url, "--token", "s3cret"]) == 0
        found = json.loads(capsys.readouterr().out)["findings"][-1]
        assert (found["area"], found["name"], found["status"]) == ("server", url, "ok")
        assert found["detail"].startswith("answers: ")
        assert main(["doctor", "--json", "--url", url, "--token", "other"]) == 1
        said = capsys.readouterr()
        assert json.loads(said.out)["findings"][-1]["status"] == "broken"
        assert "token" in said.err.splitlines()[-1]
    assert main(["doctor", "--url", "localhost:8001"]) == 2
    assert "expected a server's address" in capsys.readouterr().err


def runtimes(monkeypatch: pytest.MonkeyPatch, *names: str, gpu: bool) -> dict[str, doctor.Finding]:
    """The findings about packages if of the two ONNX Runtimes those named are installed."""
    versions = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}

    def version(distribution: str) -> str:
        if distribution not in names:
            raise PackageNotFoundError(distribution)
        return versions[distribution]

    def probe(index: int = 0) -> Gpu:
        if index or not gpu:
            raise EngineError("no NVIDIA driver")
        return Gpu("NVIDIA H200", 90, 2**37, (13, 1))

    chosen = tuple(each for each in packages.PACKAGES if each.distribution in versions)
    assert len(chosen) == 2
    monkeypatch.setattr(packages, "PACKAGES", chosen)
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(packages, "_import_problem", lambda _module: None)
    monkeypatch.setattr(machine.gpu_driver, "probe", probe)
    return {finding.name: finding for finding in doctor._packages()}


@pytest.mark.parametrize(
    ("gpu", "kept"), [(True, "onnxruntime-gpu==1.31.1"), (False, "onnxruntime==1.32.0")]
)
def test_two_onnx_runtimes_are_a_conflict_with_one_command_as_repair(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, kept: str
) -> None:
    (found,) = runtimes(monkeypatch, "onnxruntime", "onnxruntime-gpu", gpu=gpu).values()
    assert found.status is Status.BROKEN
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed" in found.detail
    assert found.fix == (f"pip uninstall --yes onnxruntime onnxruntime-gpu && pip install {kept}")


def test_the_onnx_runtime_for_gpus_is_enough_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = runtimes(monkeypatch, "onnxruntime-gpu", gpu=True)
    assert {finding.status for finding in found.values()} == {Status.OK}
    assert not any(finding.fix for finding in found.values())


def test_the_onnx_runtime_for_gpus_replaces_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    found = runtimes(monkeypatch, "onnxruntime", gpu=True)
    assert found["onnxruntime"].status is Status.OK
    assert found["onnxruntime-gpu"].status is Status.ABSENT
    assert found["onnxruntime-gpu"].fix.endswith(
        "pip uninstall --yes onnxruntime && pip install 'ois-deploy[gpu]'"
    )


def test_without_an_onnx_runtime_doctor_offers_either(monkeypatch: pytest.MonkeyPatch) -> None:
    found = runtimes(monkeypatch, gpu=False)
    assert {finding.status for finding in found.values()} == {Status.ABSENT}
    assert found["onnxruntime"].fix == "pip install 'ois-deploy[cpu]'"
    assert found["onnxruntime-gpu"].fix == "pip install 'ois-deploy[gpu]'"


def test_tensorrt_of_nvidia_s_image_is_found_by_its_bindings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tensorrt,) = (each for each in packages.PACKAGES if each.distribution == "tensorrt")
    installed = {"tensorrt-cu13-bindings": "11.4.0.106"}

    def version(distribution: str) -> str:
        if distribution not in installed:
            raise PackageNotFoundError(distribution)
        return installed[distribution]

    monkeypatch.setattr(packages, "PACKAGES", (tensorrt,))
    monkeypatch.setattr(importlib.metadata, "version", version)
    imported: list[str] = []
    monkeypatch.setattr(packages, "_import_problem", imported.append)
    (state,) = packages.package_states()
    assert (state.version, imported) == ("11.4.0.106", ["tensorrt_bindings"])
    installed.clear()
    (state,) = packages.package_states()
    assert state.version is None


def test_a_python_that_the_server_does_not_run_on_is_fine_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "tritonserver_binary", lambda: None)
    assert doctor._tritonserver().fix == "pip install 'ois-deploy[serve]'"
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    assert doctor._python().status is Status.OK
    assert "Python 3.11 or 3.12" in doctor._tritonserver().fix
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert doctor._python().status is Status.OK
    monkeypatch.setattr(sys, "version_info", (3, 15, 0))  # as `requires-python` has it
    assert doctor._python().status is Status.BROKEN


def test_an_installed_package_that_does_not_import_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # pip is installed. A module name that does not exist stands for a damaged install.
    monkeypatch.setattr(packages, "PACKAGES", (Package("pip", "pip.no_such", "cpu", "x"),))
    (state,) = packages.package_states()
    assert state.version is not None
    assert "No module named 'pip.no_such'" in (state.problem or "")


def test_an_engine_folder_that_is_damaged_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "engines" / "cut-off"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    monkeypatch.setenv("OIS_ENGINES", str(tmp_path / "nowhere"))
    findings = list(doctor._engines())
    assert [finding.status for finding in findings] == [Status.BROKEN, Status.BROKEN]
    assert {finding.name for finding in findings} == {
        "engines/cut-off",
        str(tmp_path / "nowhere"),
    }


def test_all_gpus_are_named_or_their_absence_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices = [Gpu("NVIDIA H200", 90, 2**37, (13, 1)), Gpu("NVIDIA L4", 89, 2**34, (13, 1))]

    def probe(index: int = 0) -> Gpu:
        if index >= len(devices):
            raise EngineError(f"got GPU {index}; this machine has {len(devices)}")
        return devices[index]

    monkeypatch.setattr(machine.gpu_driver, "probe", probe)
    by_name = {finding.name: finding for finding in doctor._hardware()}
    assert by_name["GPU"].status is Status.OK
    assert by_name["GPU"].detail == "NVIDIA H200, NVIDIA L4; driver for CUDA 13.1"
    devices.clear()
    by_name = {finding.name: finding for finding in doctor._hardware()}
    assert by_name["GPU"].status is Status.ABSENT
    assert by_name["GPU"].detail == "got GPU 0; this machine has 0"
    assert f"{machine.available_cores()} threads" in by_name["CPU"].detail
    assert re.match(r"\d+\.\d GiB free of \d+\.\d GiB", by_name["memory"].detail)


def test_every_package_of_the_base_install_is_checked() -> None:
    base = {package.distribution for package in packages.PACKAGES if not package.extra}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert base == {re.match(r"[\w-]+", need)[0] for need in project["dependencies"]}
    assert PackageState(packages.PACKAGES[0], None).problem is None
