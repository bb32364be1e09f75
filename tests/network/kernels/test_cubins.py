"""The kernels compile for every architecture, on a machine without a GPU, and fill a GPU at once.

The compiler runs in a process of its own, so that no import or setting of other tests affects it.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from ois_client.contract.errors import ExportError
from support.kernels import cubin_cases
from support.kernels.cubin_cases import ARCHITECTURE, CASES, OTHERS, USUAL

triton = pytest.importorskip("triton", reason="the kernels need Triton, which is for Linux")

from ois_network.kernels import cubins, launch  # noqa: E402
from ois_network.kernels.launch import default_blocks, sum_tile  # noqa: E402

if TYPE_CHECKING:
    from ois_network.kernels.cubins import Compiled

DECLARED = {"masked_attention": 21, "add_shares": 5}
#: Shared memory of a block on the smallest of these (sm_86, 89, 120); registers per multiprocessor.
SHARED_BYTES, REGISTERS = 99 * 1024, 65536


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Compiled]]:
    """All `CASES`, compiled in a process with only an empty cache set for Triton."""
    variables = {name: v for name, v in os.environ.items() if not name.startswith("TRITON_")}
    variables |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    context = multiprocessing.get_context("spawn")
    with (
        patch.dict(os.environ, variables, clear=True),
        ProcessPoolExecutor(2, mp_context=context) as pool,
    ):
        yield dict(zip(CASES, pool.map(cubin_cases.compiled, CASES.values()), strict=True))


def test_every_architecture_has_both_attentions_and_the_sum() -> None:
    assert set(cubins.ARCHITECTURES) == {ARCHITECTURE, *OTHERS}
    assert len(USUAL) == 3 * len(cubins.ARCHITECTURES)


@pytest.mark.parametrize("name", CASES)
def test_each_is_what_was_requested_and_fits(kernels: dict[str, Compiled], name: str) -> None:
    case, compiled = CASES[name], kernels[name]
    facts = compiled.facts
    assert facts.architecture == case.architecture
    assert facts.entry == compiled.variant.kernel
    # Triton adds two pointers after the declared parameters.
    compiled_in = {"splits"} & dict(case.changes).keys()
    assert facts.parameters == DECLARED[facts.entry] + 2 - len(compiled_in)
    assert [name for name, _ in compiled.parameters[-2:]] == list(cubins.HIDDEN)
    assert 0 < facts.registers * 32 * compiled.variant.warps <= REGISTERS
    assert compiled.shared_bytes <= SHARED_BYTES
    if case.dtype != "fp32":  # its tiles are twice as large, and 64 rows spill registers
        assert facts.stack_bytes == 0


@pytest.mark.parametrize("name", [name for name in USUAL if "sum" not in name])
def test_as_many_programs_run_at_once_as_the_launcher_divides_by(
    kernels: dict[str, Compiled], name: str
) -> None:
    """So all programs of a click are in one wave, with the share of the touched patches."""
    at_once = kernels[name].occupancy
    assert at_once >= launch.PROGRAMS_PER_MULTIPROCESSOR
    for multiprocessors in (16, 46, 80, 108, 132, 148):
        blocks = default_blocks(1, 8, 48, 5329, multiprocessors, own_share=True)
        assert (blocks.splits + 1) * 8 <= at_once * multiprocessors


@pytest.mark.parametrize("name", [name for name in USUAL if "sum" in name])
def test_the_sum_has_no_loop_and_one_wave(kernels: dict[str, Compiled], name: str) -> None:
    """One program per slot and head of one object: 384."""
    assert kernels[name].occupancy * 80 >= 48 * 8
    tile, warps = sum_tile(cubins.SHARES)
    assert (tile, warps) == (64, 1)
    assert kernels[name].variant.constants["BLOCK_S"] == tile


def test_occupancy_is_nvidias(kernels: dict[str, Compiled]) -> None:
    """Values of NVIDIA's calculator for sm_90, each limited by something else."""
    facts = replace(kernels["order fp16, sm_90"].facts, registers=181)
    assert cubins.occupancy(facts, 4, 30_000) == 2  # 23552 of 65536 registers each
    assert cubins.occupancy(replace(facts, registers=32), 4, 1024) == 16  # 2048 threads
    assert cubins.occupancy(replace(facts, registers=16), 1, 1024) == 32  # blocks
    assert cubins.occupancy(replace(facts, registers=32), 4, 64 * 1024) == 3  # shared memory


def test_the_tile_of_the_sum_holds_every_number_of_shares() -> None:
    for shares in (2, 16, 17, 34, 85, 500):
        tile, warps = sum_tile(shares)
        assert shares <= tile < max(17, 2 * shares)
        assert 1 <= warps <= 16
        assert tile * cubins.DIM <= 64 * 32 * warps or warps == 16


def test_cuobjdump_reads_the_same_values(kernels: dict[str, Compiled], tmp_path: Path) -> None:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton carries no cuobjdump")
    for name in [*USUAL][:3] + [*USUAL][-3:]:
        compiled = kernels[name]
        file = tmp_path / "kernel.cubin"
        file.write_bytes(compiled.data)
        told = subprocess.run(
            [tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"Function (\w+):\s+REG:(\d+) STACK:(\d+)", told)
        assert found is not None, told
        facts = compiled.facts
        assert found.groups() == (facts.entry, str(facts.registers), str(facts.stack_bytes))


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other"])
def test_a_file_that_is_not_a_cubin_is_refused(kernels: dict[str, Compiled], damage: str) -> None:
    data = kernels["sum fp16, sm_90"].data
    broken = {
        "empty": b"",
        "cut": data[:100],
        "text": b"\x7fELF, or so",
        "other": Path(sys.executable).resolve().read_bytes(),
    }[damage]
    with pytest.raises(ExportError):
        cubins.read_cubin(broken)


def test_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ExportError, match="TRITON_INTERPRET is set"):
        cubins.compile_kernel(cubins.variants()[0], ARCHITECTURE)
