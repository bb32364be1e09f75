"""The embedded server: a real `tritonserver` from a wheel, for laptops, CI and single machines.

    with EmbeddedServer(engines) as server:
        with Client(server.grpc_url) as client: ...

The server counts as ready when it has answered a click. It is restarted when one of its processes
dies, which loses only cached features. However this process ends, no process or file of the server
remains. It listens on loopback only; for production, serve the same model repository from NVIDIA's
container.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from ois_client.contract.errors import EngineError, OISError, ServerOverloaded, ServerUnavailable
from ois_client.wire import MODEL
from ois_runtime.embedded.checks import check_machine, default_cache_bytes
from ois_runtime.embedded.command import Ports, choose_ports, on_ports, printable
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.probe import answers, probe_click
from ois_runtime.embedded.process import LogSink, ServerProcess, shm_prefix
from ois_runtime.embedded.remains import remove_remains
from ois_runtime.embedded.staging import (
    Stage,
    find_wheel,
    make_stage,
    manifest_of,
    repository_of,
)
from ois_runtime.engines.backends import usual_precision
from ois_runtime.torch.checkpoint import checkpoint_of

_WATCH_S = 0.25
_INFO_EVERY_S = 15.0
_PROBE_S = 30.0
#: Time for a server to end by itself, and to log why, after a model process of it has died.
_LAST_WORDS_S = 5.0
#: Pauses before each attempt to restart the server. One more attempt is made after the last.
_PAUSES_S = (0.0, 1.0, 5.0)


class EmbeddedServer:
    """Starts, watches and stops a server. Use it as a context manager or call `start` and `stop`.

    Thread-safe.
    engines: an engine folder with a model repository, or a model repository.
    log: called with every line of the server's log, from another thread.
    """

    def __init__(
        self, engines: Path, options: ServerOptions | None = None, *, log: LogSink | None = None
    ) -> None:
        """Raises `EngineError` if the engines or the server cannot run here, `InvalidInput` if the
        engines cannot run at `options.longest`."""
        self.options = options or ServerOptions()
        self.repository = repository_of(engines)
        if self.options.longest is not None:
            manifest_of(self.repository).at(self.options.longest)  # now, not in a model's start
        self._wheel = find_wheel()
        remove_remains()
        if self.options.device:
            self._cache_bytes = self.options.cache_bytes or 2 * 2**30
            check_machine(self._wheel, 1)  # features are on the device, not in shared memory
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
        """The address for Prometheus; None if a token is set without a metrics port."""
        if self.ports.metrics is None:
            return None
        return f"http://{self.options.host}:{self.ports.metrics}/metrics"

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that are served."""
        if self.options.device:
            return (MODEL,)
        return tuple(sorted(path.parent.name for path in self.repository.glob("*/config.pbtxt")))

    @property
    def pid(self) -> int | None:
        """The server's process id, which is also its process group; None while it is down."""
        process = self._process
        return process.pid if process is not None and process.alive() else None

    @property
    def front_pid(self) -> int | None:
        """The process id of what listens on the ports; None while the server is down."""
        process = self._process
        return process.front_pid if process is not None and process.alive() else None

    @property
    def sockets(self) -> Path:
        """The folder of the Unix sockets of Triton itself, which only this user can open. Requests
        there are not checked, and some of them crash it. Raises `EngineError` while it is down."""
        process = self._process
        if process is None:
            raise EngineError("the server does not run")
        return process.sockets

    def python_models(self) -> dict[int, str]:
        """Process id -> command line of the processes that run Python models."""
        process = self._process
        return {} if process is None else process.models()

    def printable_command(self) -> str:
        """The environment and the command line of this server without its front, for people to
        start it by hand. It has no secrets in it."""
        process = self._process
        stage = Stage(self._wheel, Path("$STAGE"))
        prefix = shm_prefix() if process is None else process.shm_prefix
        words = on_ports(stage, self.repository, self.options, self.ports, prefix)
        environment = stage.environment
        shown = {name: environment[name] for name in ("PATH", "LD_LIBRARY_PATH")}
        variables = {**shown, **self._environment()}
        exports = "\n".join(f"export {key}={json.dumps(val)}" for key, val in variables.items())
        return f"{exports}\n{printable(words, self.options)}"

    # -- start and stop --------------------------------------------------------------------

    def start(self) -> EmbeddedServer:
        """Start the server and return when it has answered a click.

        Raises `EngineError` with the cause from the log if it does not start, or if `stop` was
        called before.
        """
        with self._lock:
            if self._process is not None:
                return self
            if self._stopping.is_set():
                raise EngineError("this server was stopped; make a new EmbeddedServer")
            self._process = self._launch()
            self._watcher = threading.Thread(target=self._watch, name="ois-server", daemon=True)
            self._watcher.start()
        return self

    def stop(self) -> None:
        """Finish the requests in progress, then end the server. May be called twice."""
        self._stopping.set()
        with self._lock:
            if self._watcher is not None:
                self._watcher.join()
            if self._process is not None:
                self._process.stop()
            self._process = self._watcher = None
            self._ended.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the server has ended. Returns whether it did within `timeout_s`.

        Raises `EngineError` if it died and could not be restarted.
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

    # -- internals -------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        return {
            "OIS_CACHE_BYTES": str(self._cache_bytes),
            "OIS_CACHE_TTL_S": str(self.options.ttl_s),
            "OIS_CACHE_SALT": self.options.cache_salt,
            **({"OIS_LONGEST": str(self.options.longest)} if self.options.longest else {}),
            **self._network,
        }

    def _network_environment(self) -> dict[str, str]:
        """The variables of `ServingOptions` for a network that runs on `options.device`."""
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
        """Return when the server has answered a click, every model process of it still runs, and
        nobody else listens on its ports.
        """
        # The probe has a thread of its own: it can wait for half a minute for an answer that a
        # dead model will never give.
        pool = ThreadPoolExecutor(1, thread_name_prefix="ois-server-probe")
        try:
            self._wait_for_probes(process, pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _wait_for_probes(self, process: ServerProcess, pool: ThreadPoolExecutor) -> None:
        deadline = time.monotonic() + self.options.start_timeout_s
        models: set[int] = set()  # every model process seen: if one is gone, the start has failed
        problem = ""
        probe: Future[str] | None = None
        while not self._stopping.is_set():
            left_s = deadline - time.monotonic()
            if probe is None:
                probe = pool.submit(self._probe, min(_PROBE_S, max(1.0, left_s)))
            models |= process.models().keys()
            self._check_start(process, models)
            if probe.done():
                problem = probe.result()
                if problem:
                    probe = None
                elif not process.listens():
                    problem = "it does not listen yet"
                elif len(models) < process.expected:
                    problem = f"{len(models)} of {process.expected} models run"
                else:
                    process.watched = tuple(models)
                    return
            if left_s <= 0:
                within_s = f"{self.options.start_timeout_s:g} s"
                raise EngineError(
                    f"the server was not ready after {within_s}: {problem}\n{process.problem()}"
                )
            time.sleep(0.05)
        raise EngineError("the server was stopped during its start")

    def _probe(self, timeout_s: float) -> str:
        """ "" once the server has answered a click, else why it has not yet.

        Raises `EngineError` if it answers and the answer is wrong.
        """
        options = self.options
        try:
            probe_click(options.host, self.ports.http, token=options.token, timeout_s=timeout_s)
        except ServerOverloaded:
            return ""  # clients filled the queue before the probe, so the server works
        except ServerUnavailable as error:
            return str(error) or "no answer"
        except OISError as error:
            raise EngineError(
                f"the server started, but failed to answer a click: {error}"
            ) from error
        return ""

    def _check_start(self, process: ServerProcess, models: set[int]) -> None:
        """Raise `EngineError` if the server or one of its model processes has ended."""
        if all(map(process.runs, models)) and process.alive():
            return
        # Triton ends by itself when a model fails to load, and its log then has the cause.
        given_up = time.monotonic() + _LAST_WORDS_S
        while process.alive() and time.monotonic() < given_up:
            time.sleep(0.05)
        what = "a model process of the server died" if process.alive() else "the server ended"
        raise EngineError(f"{what} during its start:\n{process.problem()}")

    def _watch(self) -> None:
        """Restart the server whenever one of its processes dies, until `stop`."""
        try:
            while self._process is not None and self._watch_one(self._process):
                self._log("ois: a process of the server died; restarting the server")
                self._process.kill()
                self._process = self._restart()
                self.restarts += 1
                self._log("ois: the server is ready again")
        except (EngineError, OSError, RuntimeError) as error:  # e.g. out of files or threads
            if not self._stopping.is_set():
                if self._process is not None and self._process.alive():
                    self._process.kill()  # it would no longer be watched
                if not isinstance(error, EngineError):
                    error = EngineError(f"the server can no longer be watched: {error}")
                self._problem = error
                self._process = None
                self._log(f"ois: {error}")
                self._ended.set()

    def _watch_one(self, process: ServerProcess) -> bool:
        """Wait until `process` must be replaced (returns True) or `stop` is called (False)."""
        models = process.watched
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
