"""The description of a machine holds its facts, respects a container's limits, and names no one."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from ois_benchmarks import machine
from ois_benchmarks.machine import Cpu, Memory


def test_the_machine_is_described_without_names_or_paths() -> None:
    found = machine.describe()
    text = json.dumps(found)
    assert str(Path.cwd()) not in text
    assert str(Path.home()) + "/" not in text
    assert socket.gethostname() not in re.findall(r"[\w.-]+", text)
    assert found["cores"] == machine.available_cores() >= 1
    assert found["memory_gib"] > 0
    assert found["versions"]["numpy"] == np.__version__
    assert set(found["allocator"]) == set(machine.ALLOCATOR_ENVIRONMENT)


def test_bf16_is_native_only_with_its_instructions() -> None:
    assert Cpu("x", frozenset({"avx2", "amx_bf16"})).native_bf16
    assert not Cpu("x", frozenset({"avx2", "avx512f"})).native_bf16
    assert Cpu("x", frozenset({"avx512f", "fpu"})).features == ("AVX-512",)


def test_a_containers_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    gib, group = 2**30, "/sys/fs/cgroup"
    files = {
        "/proc/meminfo": f"MemTotal: {2**24} kB\nMemAvailable: {2**23} kB\n",
        f"{group}/memory.max": f"{4 * gib}\n",
        f"{group}/memory.current": f"{3 * gib}\n",
        f"{group}/memory.stat": f"anon 7\ninactive_file {2 * gib}\n",  # cache that can be dropped
        f"{group}/cpu.max": "100000 100000\n",
    }
    monkeypatch.setattr(machine, "_read", files.get)
    assert machine.memory() == Memory(4 * gib, 3 * gib)
    assert machine.available_cores() == 1
    files |= {f"{group}/memory.max": "max\n", f"{group}/cpu.max": "max 100000\n"}
    assert machine.memory() == Memory(16 * gib, 8 * gib)
    files.clear()
    assert machine.memory() is None


def test_peak_memory_never_shrinks() -> None:
    before = machine.peak_memory_bytes()
    block = np.ones(8 * 2**20 // 8)
    assert block.sum() > 0
    assert machine.peak_memory_bytes() >= before > 2**20
