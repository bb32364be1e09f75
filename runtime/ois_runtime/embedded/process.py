"""One run of `tritonserver` and its front under a guard: starts them, reads the log, ends them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ois_client.contract.errors import EngineError
from ois_runtime.embedded import guard
from ois_runtime.embedded.command import Ports, on_sockets
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.staging import Stage
from ois_runtime.front.settings import FrontSettings

LogSink = Callable[[str], None]

_LOG_LINES = 400
#: Error lines of glog (which begin with E and the date), and the server's last message.
_ERROR = re.compile(r"E\d{4} |error: ")
#: The message of a Python model that cannot start, before the traceback that Triton adds.
_MODEL_ERROR = re.compile(r"ERROR: .*TritonModelException: (.*?)\\n\\nAt:")
#: On machines without a GPU, and of connections through a Unix socket.
_HARMLESS = re.compile("CudaDriverHelper|unable to create stream|NODELAY NOT SUPPORTED")
_STUB = "triton_python_b"  # /proc shows 15 characters of a process's name


def shm_prefix() -> str:
    """A prefix for names in /dev/shm that no other launch uses."""
    return f"ois-{os.getpid()}-{secrets.token_hex(4)}-"


class ServerProcess:
    """One server process. A restart needs a new object. Thread-safe."""

    def __init__(
        self,
        stage: Stage,
        repository: Path,
        options: ServerOptions,
        ports: Ports,
        environment: dict[str, str],
        log: LogSink,
    ) -> None:
        """Starts the server and takes ownership of `stage`, which is removed at the end.

        environment: variables for the server's models. log: gets every line of its log.
        Raises `EngineError` if no process can be started.
        """
        self._grace_s = options.exit_timeout_s + 15.0
        self.shm_prefix = shm_prefix()
        self.sockets = stage.sockets
        self._stage = stage
        self._log = log
        self.command = on_sockets(stage, repository, options, ports, self.shm_prefix)
        self._tail: deque[str] = deque(maxlen=_LOG_LINES)
        self._front = FrontSettings(
            host=options.host,
            grpc=ports.grpc,
            http=ports.http,
            metrics=ports.metrics,
            sockets=stage.sockets,
            token=options.token,
            forward_token=bool(options.cache_salt),
            shared_memory=options.client_shm,
            grace_s=options.exit_timeout_s,
        )
        arguments = {
            "command": self.command,
            "front": [sys.executable, "-P", "-m", "ois_runtime.front"],
            "settings": self._front.to_json(),
            "env": {**stage.environment, **environment},
            "shm_prefix": self.shm_prefix,
            "remove": [str(stage.folder)],
        }
        assert stage.lock is not None
        stage.lock.write(self.shm_prefix)
        stage.lock.flush()
        # With -I -S, the user's Python environment cannot break the guard.
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches this process alone, which stops the guard
                pass_fds=(stage.lock.fileno(),),
            )
        except OSError as error:  # out of processes, memory or open files
            raise EngineError(
                f"no process could be started for the server ({error}); end other programs, or "
                "raise the limits on processes and open files (ulimit -u, -n)"
            ) from error
        stage.release()
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._reader = threading.Thread(target=self._read_log, name="ois-server-log", daemon=True)
        self._reader.start()
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(json.dumps(arguments).encode() + b"\n")
            self._guard.stdin.flush()
        line = self._guard.stdout.readline()
        pids = line.split()
        if len(pids) != 2:
            self.kill()
            raise EngineError(f"the server could not be started:\n{self.problem()}")
        self.pid, self.front_pid = map(int, pids)
        #: Python models that the server must have, and their processes once it is ready.
        self.expected = models_of(repository, options)
        self.watched: tuple[int, ...] = ()

    def alive(self) -> bool:
        return self._guard.poll() is None

    def models(self) -> dict[int, str]:
        """Process id -> command line of each Python model of the server that runs now."""
        pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
        return {pid: _command_line(pid) for pid in pids if self.runs(pid)}

    def runs(self, pid: int) -> bool:
        """Whether `pid` is a running Python model of this server.

        Zombies do not count, nor do forks that a model makes when it starts a program.
        """
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
            state, parent = rest.split()[:2]
        except OSError:
            return False
        return int(parent) == self.pid and _STUB in name and state not in "ZX"

    def listens(self) -> bool:
        """Whether this server, and nobody else, listens on its ports: a probe cannot tell who
        answered it."""
        return self._front.listening.exists()

    def problem(self) -> str:
        """The cause of a failure according to the log.

        A model's error message, else the first error lines, else the last lines without tables.
        """
        for line in self._tail:
            if found := _MODEL_ERROR.search(line):
                return found.group(1)
        lines = [line for line in self._tail if line and line[0] not in "+|"]
        errors = [line for line in lines if _ERROR.match(line) and not _HARMLESS.search(line)]
        chosen = errors[:2] or lines[-10:]
        return "\n".join(line[:1000] for line in chosen)

    def stop(self) -> int:
        """End the server after the requests in progress. Returns its exit status."""
        return self._end(b"", self._grace_s)

    def kill(self) -> int:
        """End the server at once, without finishing requests. Returns its exit status."""
        return self._end(b"kill\n", 10.0)

    def _end(self, message: bytes, timeout_s: float) -> int:
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            if message:
                self._guard.stdin.write(message)
            self._guard.stdin.close()
        try:
            status = self._guard.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            status = self._guard.wait()
        # The guard has done this already, unless it was killed.
        if hasattr(self, "pid"):
            guard.kill_group(self.pid)
            guard.kill_group(self.front_pid)
        guard.clean(self.shm_prefix, [str(self._stage.folder)])
        self._reader.join(timeout=5)
        for pipe in (self._guard.stdout, self._guard.stderr):
            if pipe is not None:
                pipe.close()
        return status

    def _read_log(self) -> None:
        assert self._guard.stderr is not None
        for raw in self._guard.stderr:
            line = raw.decode(errors="replace").rstrip()
            self._tail.append(line)
            self._log(line)


def models_of(repository: Path, options: ServerOptions) -> int:
    """How many model processes a server of `repository` has: one per model, none for ensembles."""
    if options.device:
        return 1
    configs = (path.read_text(encoding="utf-8") for path in repository.glob("*/config.pbtxt"))
    return sum('platform: "ensemble"' not in config for config in configs)


def _command_line(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()
