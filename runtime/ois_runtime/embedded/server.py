"""The embedded server: a real `tritonserver` from a wheel, for laptops, CI and one-machine use.

    with EmbeddedServer(engines) as server:
        with Client(server.grpc_url) as client: ...

It is ready when a click came back, is started again when a part of it dies (its features are
only a cache), and leaves nothing behind, however this process ends. It listens on loopback
only. For production, serve the same model repository from NVIDIA's container.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from types import TracebackType

from ois_client.contract.errors import EngineError, OISError, ServerOverloaded, ServerUnavailable
from ois_client.wire import MODEL
from ois_runtime.embedded.checks import check_machine, default_cache_bytes
from ois_runtime.embedded.command import Ports, ServerOptions, choose_ports, command, printable
from ois_runtime.embedded.probe import answers, probe_click
from ois_runtime.embedded.process import LogSink, ServerProcess, shm_prefix
from ois_runtime.embedded.staging import Stage, find_wheel, make_stage
from ois_runtime.engines.base import usual_precision
from ois_runtime.engines.manifest import EXPORT_COMMAND, MANIFEST_FILE, Manifest
from ois_runtime.torch.checkpoint import checkpoint_of

REPOSITORY = "repository"

_WATCH_S = 0.25
_INFO_EVERY_S = 15.0
#: Tries to start again, each after a longer pause, before the server counts as beyond help.
_PAUSES_S = (0.0, 1.0, 5.0)


def repository_of(engines: Path) -> Path:
    """The model repository of an engine folder, or `engines` itself when it is one.

    Raises `EngineError` when there is none.
    """
    for folder in (engines / REPOSITORY, engines):
        if (folder / MODEL / "config.pbtxt").is_file():
            return folder.resolve()
    raise EngineError(
        f"no model repository in {engines}: expected {engines / REPOSITORY / MODEL}. Export the "
        f"engines again: {EXPORT_COMMAND}"
    )


def manifest_of(repository: Path) -> Manifest:
    """The manifest that a model repository was written from. Raises `EngineError`."""
    path = repository / MODEL / "1" / MANIFEST_FILE
    try:
        return Manifest.from_dict(json.loads(path.read_text(encoding="utf-8")), source=str(path))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{path} cannot be read ({error}). Export the engines again: {EXPORT_COMMAND}"
        ) from error


class EmbeddedServer:
    """A context manager; `start` and `stop` do the same by hand. Thread-safe.

    engines: an engine folder with its model repository, or a repository.
    log: gets every line of the server's log, from a thread of ours.
    """

    def __init__(
        self, engines: Path, options: ServerOptions | None = None, *, log: LogSink | None = None
    ) -> None:
        """Raises `EngineError` when the engines or the server cannot run here."""
        self.options = options or ServerOptions()
        self.repository = repository_of(engines)
        self._wheel = find_wheel()
        if self.options.device:
            self._cache_bytes = self.options.cache_bytes or 2 * 2**30
            check_machine(self._wheel, 1)  # features lie on the device, not in shared memory
            self._network = self._network_environment()
        else:
            self._cache_bytes = self.options.cache_bytes or default_cache_bytes()
            check_machine(self._wheel, self._cache_bytes)
            self._network = {}
        self.ports: Ports = choose_ports(self.options)
        self._log = log or (lambda _: None)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._process: ServerProcess | None = None
        self._watcher: threading.Thread | None = None
        self._problem: EngineError | None = None
        self.restarts = 0

    # -- addresses -------------------------------------------------------------------------

    @property
    def grpc_url(self) -> str:
        return f"grpc://{self.options.host}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        return f"http://{self.options.host}:{self.ports.http}"

    @property
    def metrics_url(self) -> str | None:
        """For Prometheus; None when a token is set and no metrics port was named."""
        if self.ports.metrics is None:
            return None
        return f"http://{self.options.host}:{self.ports.metrics}/metrics"

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models served."""
        if self.options.device:
            return (MODEL,)
        return tuple(sorted(path.parent.name for path in self.repository.glob("*/config.pbtxt")))

    @property
    def pid(self) -> int | None:
        """The server's process, and the id of its process group; None while it is down."""
        process = self._process
        return process.pid if process is not None and process.alive() else None

    def python_models(self) -> dict[int, str]:
        """Process id -> command line of the processes that run the models."""
        process = self._process
        return {} if process is None else process.models()

    def printable_command(self) -> str:
        """What runs, for a person to read: environment, files and command, secrets left out."""
        process = self._process
        stage = Stage(self._wheel, Path("$STAGE"))
        words = (
            process.command
            if process is not None
            else command(stage, self.repository, self.options, self.ports, shm_prefix())
        )
        environment = stage.environment
        shown = {name: environment[name] for name in ("PATH", "LD_LIBRARY_PATH")}
        variables = {**shown, **self._environment()}
        exports = "\n".join(f"export {key}={json.dumps(val)}" for key, val in variables.items())
        return f"{exports}\n{printable(words, self.options)}"

    # -- life ------------------------------------------------------------------------------

    def start(self) -> EmbeddedServer:
        """Returns when a click came back. Raises `EngineError`, with what the log says.

        A server that was stopped stays so.
        """
        with self._lock:
            if self._process is not None:
                return self
            if self._stopping.is_set():
                raise EngineError("this server was stopped; make a new one")
            self._process = self._launch()
            self._watcher = threading.Thread(target=self._watch, name="ois-server", daemon=True)
            self._watcher.start()
        return self

    def stop(self) -> None:
        """Let clicks in flight finish, then end the server. Twice is fine."""
        self._stopping.set()
        with self._lock:
            if self._watcher is not None:
                self._watcher.join()
            if self._process is not None:
                self._process.stop()
            self._process = self._watcher = None
            self._ended.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the server's end; whether it came within `timeout_s`.

        Raises `EngineError` when it died and could not be started again.
        """
        ended = self._ended.wait(timeout_s)
        if self._problem is not None:
            raise self._problem
        return ended

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- inside ----------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        return {
            "OIS_CACHE_BYTES": str(self._cache_bytes),
            "OIS_CACHE_TTL_S": str(self.options.ttl_s),
            **self._network,
        }

    def _network_environment(self) -> dict[str, str]:
        """Where the model runs the network itself: which, on what, how (`ServingOptions`)."""
        options = self.options
        manifest = manifest_of(self.repository)
        checkpoint = checkpoint_of(manifest, self.repository.parent, options.checkpoint)
        return {
            "OIS_TORCH_DEVICE": options.device,
            "OIS_TORCH_PRECISION": options.precision or usual_precision(options.device),
            "OIS_CHECKPOINT": str(checkpoint.resolve()),
        }

    def _launch(self) -> ServerProcess:
        stage = make_stage(self._wheel)
        try:
            process = ServerProcess(
                stage, self.repository, self.options, self.ports, self._environment(), self._log
            )
        except BaseException:
            stage.remove()
            raise
        try:
            self._wait_ready(process)
        except BaseException:
            process.kill()
            raise
        return process

    def _wait_ready(self, process: ServerProcess) -> None:
        options = self.options
        deadline = time.monotonic() + options.start_timeout_s
        while not self._stopping.is_set():
            left_s = deadline - time.monotonic()
            try:
                probe_click(
                    options.host,
                    self.ports.http,
                    token=options.token,
                    timeout_s=min(30.0, max(1.0, left_s)),
                )
            except ServerOverloaded:
                return  # clients were quicker than the probe: what refuses work can do it
            except ServerUnavailable as error:
                problem = str(error)
            except OISError as error:
                raise EngineError(
                    f"the server started, but a click on it failed: {error}"
                ) from error
            else:
                return
            if not process.alive():
                raise EngineError(f"the server ended while it started:\n{process.problem()}")
            if left_s <= 0:
                raise EngineError(
                    f"the server was not ready after {options.start_timeout_s:g} s: {problem}\n"
                    f"{process.problem()}"
                )
            time.sleep(0.05)
        raise EngineError("the server was stopped while it started")

    def _watch(self) -> None:
        """Until `stop`: start the server again when it, or a part of it, died."""
        try:
            while self._process is not None and self._watch_one(self._process):
                self._log("ois: a part of the server died; starting it again")
                self._process.kill()
                self._process = self._restart()
                self.restarts += 1
                self._log("ois: the server is ready again")
        except (EngineError, OSError, RuntimeError) as error:  # out of files, memory, threads
            if not self._stopping.is_set():
                if self._process is not None and self._process.alive():
                    self._process.kill()  # nobody watches it any more
                if not isinstance(error, EngineError):
                    error = EngineError(f"the server cannot be watched any more: {error}")
                self._problem = error
                self._process = None
                self._log(f"ois: {error}")
                self._ended.set()

    def _watch_one(self, process: ServerProcess) -> bool:
        """Returns True when `process` must be replaced, False when the server is to stop."""
        models = tuple(process.models())
        next_info = time.monotonic() + _INFO_EVERY_S
        failures = 0
        while not self._stopping.wait(_WATCH_S):
            if not process.alive() or not all(map(process.runs, models)):
                return True
            if time.monotonic() >= next_info:
                next_info = time.monotonic() + _INFO_EVERY_S
                alive = answers(self.options.host, self.ports.http, token=self.options.token)
                failures = 0 if alive else failures + 1
                if failures >= 2:
                    return True
        return False

    def _restart(self) -> ServerProcess:
        for pause_s in _PAUSES_S:
            if self._stopping.wait(pause_s):
                break
            with contextlib.suppress(EngineError):
                return self._launch()
        return self._launch()
