"""The kernels compile ahead of time for every architecture, on a machine without a GPU.

The compiler runs in its own processes, so that no import or setting of other tests affects it: one
runs the command, another compiles further variants that the launcher uses.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from ois_client.contract.errors import ExportError
from support.kernels import cubin_cases
from support.kernels.cubin_cases import CASES

triton = pytest.importorskip("triton", reason="the kernels need Triton, which is for Linux")

from ois_network.kernels import cubins  # noqa: E402

if TYPE_CHECKING:
    from ois_network.kernels.cubins import Compiled

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
DECLARED = {"masked_attention": 21, "add_shares": 5}
#: Shared memory of a block on the smallest of these (sm_86, 89, 120); registers per multiprocessor.
SHARED_BYTES, REGISTERS = 99 * 1024, 65536


def environment(cache: Path) -> dict[str, str]:
    """The environment of this process, with only an empty cache set for Triton."""
    variables = {name: v for name, v in os.environ.items() if not name.startswith("TRITON_")}
    return variables | {"TRITON_CACHE_DIR": str(cache)}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Compiled]]]:
    """The variants of `CASES`, compiled at the same time as those of `folder`."""
    variables = environment(tmp_path_factory.mktemp("cache"))
    context = multiprocessing.get_context("spawn")
    with (
        patch.dict(os.environ, variables, clear=True),
        ProcessPoolExecutor(1, mp_context=context) as pool,
    ):
        yield {name: pool.submit(cubin_cases.compiled, case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, others: dict[str, Future[Compiled]]) -> Path:
    del others  # started first
    folder = tmp_path_factory.mktemp("cubins")
    variables = environment(tmp_path_factory.mktemp("cache"))
    arguments = ["-m", "ois_network.kernels.cubins", str(folder), "--dtype", "fp16"]
    run = subprocess.run(
        [sys.executable, *arguments], env=variables, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def kernels(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "manifest.json").read_text())["kernels"]


def test_every_architecture_has_both_attentions_and_the_sum(
    folder: Path, kernels: list[dict[str, Any]]
) -> None:
    names = {f"{name}-fp16-sm{sm}.cubin" for sm in ARCHITECTURES
             for name in ("order", "object", "sum")}  # fmt: skip
    assert {kernel["file"] for kernel in kernels} == names
    assert {path.name for path in folder.iterdir()} == names | {"manifest.json"}


def test_the_manifest_describes_each_file(folder: Path, kernels: list[dict[str, Any]]) -> None:
    for kernel in kernels:
        data = (folder / kernel["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == kernel["sha256"]
        facts = cubins.read_cubin(data)
        assert f"sm{facts.architecture}.cubin" == kernel["file"].split("-")[-1]
        assert facts.architecture == kernel["architecture"]
        assert facts.entry == kernel["entry"]
        # Triton adds two pointers after the declared parameters.
        assert facts.parameters == DECLARED[facts.entry] + 2 == len(kernel["parameters"])
        assert [name for name, _ in kernel["parameters"][-2:]] == [
            "global_scratch",
            "profile_scratch",
        ]


def test_nothing_is_spilled_and_a_block_fits(kernels: list[dict[str, Any]]) -> None:
    for kernel in kernels:
        assert kernel["stack_bytes"] == 0, kernel["file"]
        assert 0 < kernel["registers"] * kernel["threads"] <= REGISTERS, kernel["file"]
        assert kernel["shared_bytes"] <= SHARED_BYTES, kernel["file"]


@pytest.mark.parametrize("name", CASES)
def test_other_variants_that_the_launcher_uses_compile(
    others: dict[str, Future[Compiled]], name: str
) -> None:
    case, compiled = CASES[name], others[name].result(timeout=120)
    facts = compiled.facts
    assert facts.architecture == cubin_cases.ARCHITECTURE
    compiled_in = {"splits"} & dict(case.changes).keys()
    assert facts.parameters == DECLARED[facts.entry] + 2 - len(compiled_in)
    assert 0 < facts.registers * 32 * compiled.variant.warps <= REGISTERS
    assert compiled.shared_bytes <= SHARED_BYTES
    if case.dtype != "fp32":  # its tiles are twice as large, and 64 rows spill registers
        assert facts.stack_bytes == 0


def test_cuobjdump_reads_the_same_values(folder: Path, kernels: list[dict[str, Any]]) -> None:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton carries no cuobjdump")
    for kernel in kernels[:3] + kernels[-3:]:
        told = subprocess.run(
            [tool, "--dump-resource-usage", folder / kernel["file"]],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found = re.search(r"Function (\w+):\s+REG:(\d+) STACK:(\d+)", told)
        assert found is not None, told
        assert found.groups() == (
            kernel["entry"],
            str(kernel["registers"]),
            str(kernel["stack_bytes"]),
        )


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other"])
def test_a_file_that_is_not_a_cubin_is_refused(
    folder: Path, kernels: list[dict[str, Any]], damage: str
) -> None:
    data = (folder / kernels[0]["file"]).read_bytes()
    broken = {
        "empty": b"",
        "cut": data[:100],
        "text": b"\x7fELF, or so",
        "other": Path(sys.executable).resolve().read_bytes(),
    }[damage]
    with pytest.raises(ExportError):
        cubins.read_cubin(broken)


def test_the_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert cubins.main([str(file / "below"), "--sm", "90"]) == 2
    assert "cannot write" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cubins.main([str(tmp_path / "out"), "--sm", "70"])
    assert "invalid choice: 70" in capsys.readouterr().err
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert cubins.main([str(tmp_path / "out"), "--dtype", "float16"]) == 2  # the former spelling
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err
