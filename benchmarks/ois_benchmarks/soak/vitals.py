"""What a server and its clients hold: memory, file descriptors, threads, shared memory, images."""

from __future__ import annotations

import contextlib
import os
import re
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from ois_runtime.embedded.server import EmbeddedServer

_METRICS_S = 5.0
_METRICS = {
    "store_images": "ois_store_images",
    "store_bytes": "ois_store_bytes",
    "store_hits": "ois_store_hits_total",
    "store_misses": "ois_store_misses_total",
    "store_evictions": "ois_store_evictions_total",
}


def measure(server: EmbeddedServer) -> dict[str, Any]:
    """Everything at this moment, JSON-ready. What a server that is down has is 0 or None.

    Memory is private: what shared memory holds is in `shm_bytes` alone. cpu_s: of the processes
    that run now, since each began. machine_busy: share of all cores, since the last call.
    """
    pid = server.pid
    front = server.front_pid
    pids = [] if pid is None or front is None else [pid, front, *server.python_models()]
    regions = shared_memory()
    return {
        "machine_busy": round(psutil.cpu_percent() / 100, 3),
        "server": _held(pids),
        "client": _held([os.getpid()]),
        "shm_files": len(regions),
        "shm_bytes": sum(regions),
        **_store(server.metrics_url if pids else None),
    }


def shared_memory() -> list[int]:
    """Bytes of each region in /dev/shm that belongs to a server which this process started."""
    sizes = []
    for path in Path("/dev/shm").glob(f"ois-{os.getpid()}-*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(512 * path.stat().st_blocks)
    return sizes


def _held(pids: Iterable[int]) -> dict[str, Any]:
    total = {"processes": 0, "memory_bytes": 0, "descriptors": 0, "threads": 0, "cpu_s": 0.0}
    for pid in pids:
        with contextlib.suppress(psutil.Error):  # it ended in the meantime
            process = psutil.Process(pid)
            total["memory_bytes"] += process.memory_full_info().uss
            total["descriptors"] += process.num_fds()
            total["threads"] += process.num_threads()
            total["cpu_s"] += sum(process.cpu_times()[:2])
            total["processes"] += 1
    return {**total, "cpu_s": round(total["cpu_s"], 2)}


def _store(url: str | None) -> dict[str, int | None]:
    """The server's own figures, since it started; None if it does not answer."""
    text = ""
    if url is not None:
        with (
            contextlib.suppress(OSError, ValueError),
            urllib.request.urlopen(url, timeout=_METRICS_S) as reply,
        ):
            text = reply.read().decode()
    found: dict[str, int | None] = {}
    for name, metric in _METRICS.items():
        match = re.search(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.M)
        found[name] = int(float(match[1])) if match else None
    return found
