"""One running `tritonserver` under its guard: start it, read its log, see what died, end it."""

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
from ois_runtime.embedded.command import Ports, ServerOptions, command
from ois_runtime.embedded.staging import Stage
from ois_runtime.serving import request_counter as serving_busy

LogSink = Callable[[str], None]

_LOG_LINES = 400
#: Lines that begin with E, glog's mark of an error, or report the server's own end.
_ERROR = re.compile(r"E\d{4} |error: ")
#: What a model of ours says when it cannot start; Triton adds a trace.
_REFUSED = re.compile(r"ERROR: .*TritonModelException: (.*?)\\n\\nAt:")
_HARMLESS = re.compile("CudaDriverHelper|unable to create stream")  # always, without a GPU
_STUB = "triton_python_b"  # /proc shows 15 characters of a process's name


def shm_prefix() -> str:
    """A prefix of /dev/shm names that is this launch's alone."""
    return f"ois-{os.getpid()}-{secrets.token_hex(4)}-"


class ServerProcess:
    """Not restartable: a restart is a new one. Thread-safe."""

    def __init__(
        self,
        stage: Stage,
        repository: Path,
        options: ServerOptions,
        ports: Ports,
        environment: dict[str, str],
        log: LogSink,
    ) -> None:
        """Starts at once and takes over `stage`. Raises `EngineError` when nothing starts."""
        self._grace_s = options.exit_timeout_s + 15.0
        self._prefix = shm_prefix()
        self._stage = stage
        self._log = log
        self.command = command(stage, repository, options, ports, self._prefix)
        self._tail: deque[str] = deque(maxlen=_LOG_LINES)
        busy = {serving_busy.VARIABLE: str(stage.busy)}
        order = {
            "command": self.command,
            "env": {**stage.environment, **environment, **busy},
            "shm_prefix": self._prefix,
            "remove": [str(stage.folder)],
            "busy": str(stage.busy),
        }
        # -I -S: nothing of the user's environment can break the guard.
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in the terminal is for us, who then stop it
            )
        except OSError as error:  # of processes, memory or open files the machine has no more
            raise EngineError(
                f"no process could be started for the server ({error}); end other programs, or "
                "raise the limits of processes and open files (ulimit -u, -n)"
            ) from error
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._reader = threading.Thread(target=self._read_log, name="ois-server-log", daemon=True)
        self._reader.start()
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(json.dumps(order).encode() + b"\n")
            self._guard.stdin.flush()
        line = self._guard.stdout.readline()
        if not line.strip().isdigit():
            self.kill()
            raise EngineError(f"the server could not be started:\n{self.problem()}")
        self.pid = int(line)

    def alive(self) -> bool:
        return self._guard.poll() is None

    def models(self) -> dict[int, str]:
        """Process id -> command line of the server's Python models that run now."""
        pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
        return {pid: _command_line(pid) for pid in pids if self.runs(pid)}

    def runs(self, pid: int) -> bool:
        """Whether `pid` is a Python model of this server. A zombie is not: it answers nothing."""
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
            state, _, group = rest.split()[:3]
        except OSError:
            return False
        return int(group) == self.pid and _STUB in name and state not in "ZX"

    def problem(self) -> str:
        """What the log says went wrong: a model's own words for it, else the log's error lines, or
        its last lines without the tables."""
        for line in self._tail:
            if said := _REFUSED.search(line):
                return said.group(1)
        lines = [line for line in self._tail if line and line[0] not in "+|"]
        errors = [line for line in lines if _ERROR.match(line) and not _HARMLESS.search(line)]
        chosen = errors[:2] or lines[-10:]
        return "\n".join(line[:1000] for line in chosen)

    def stop(self) -> int:
        """Let requests in flight finish, then end it. Returns its exit status."""
        return self._end(b"", self._grace_s)

    def kill(self) -> int:
        """End it now. Requests in flight are cut off."""
        return self._end(b"kill\n", 10.0)

    def _end(self, word: bytes, timeout_s: float) -> int:
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            if word:
                self._guard.stdin.write(word)
            self._guard.stdin.close()
        try:
            status = self._guard.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            status = self._guard.wait()
        # The guard does this itself unless it was killed.
        if hasattr(self, "pid"):
            guard.kill_group(self.pid)
        guard.clean(self._prefix, [str(self._stage.folder)])
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


def _command_line(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()
