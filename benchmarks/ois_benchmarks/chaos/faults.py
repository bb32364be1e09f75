"""What can be done to a server, and to the network between it and its clients."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ois_benchmarks.chaos.relay import Relay
from ois_client.contract.errors import InvalidInput
from ois_runtime.embedded.server import EmbeddedServer

#: All processes of a server: Triton, what listens on its ports, and one per model.
PROCESSES = (
    *("tritonserver", "front", "ois_segment"),
    *("ois_encoder", "ois_decoder", "ois_preprocess", "ois_postprocess"),
)
_CONNECTIONS = 40
#: Free file descriptors of a process that runs short of them.
_DESCRIPTORS = 2
#: What a process may still take when it runs short of memory.
_MEMORY_BYTES = 2**20
#: Begins a gRPC connection, so that the server waits for more.
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HTTP = (
    b"POST /v2/models/ois_segment/infer HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/octet-stream\r\nContent-Length: 100000\r\n\r\n{"
)


class Fault(StrEnum):
    """A kind of fault. kills: a process of the server dies. needs_root: it needs folders of its
    own, see `private.py`.
    """

    kills: bool
    needs_root: bool

    KILL_SERVER = ("kill-server", True, False)
    KILL_FRONT = ("kill-front", True, False)
    KILL_SEGMENT = ("kill-segment", True, False)
    KILL_MODEL = ("kill-model", True, False)
    STOP_SERVER = ("stop-server", False, False)
    STOP_FRONT = ("stop-front", False, False)
    STOP_SEGMENT = ("stop-segment", False, False)
    DROP = ("drop", False, False)
    DELAY = ("delay", False, False)
    TRUNCATE = ("truncate", False, False)
    DUPLICATE = ("duplicate", False, False)
    SLOW = ("slow", False, False)
    HALF_OPEN = ("half-open", False, False)
    DESCRIPTORS = ("descriptors", False, False)
    MEMORY = ("memory", False, False)
    FULL_SHM = ("full-shm", False, True)
    FULL_DISK = ("full-disk", True, True)

    def __new__(cls, value: str, kills: bool, needs_root: bool) -> Fault:
        member = str.__new__(cls, value)
        member._value_ = value
        member.kills, member.needs_root = kills, needs_root
        return member


@dataclass(frozen=True, slots=True)
class Scene:
    """What faults act on. relays: between the clients and the server's two ports."""

    server: EmbeddedServer
    relays: Sequence[Relay]


def inflict(fault: Fault, scene: Scene, hold_s: float, dice: random.Random) -> None:
    """Do it now. Faults that can be undone last `hold_s` seconds and are undone on return.

    Raises `InvalidInput` if the process to be hit does not run.
    """
    _ACTIONS[fault](scene, hold_s, dice)


# -- processes -----------------------------------------------------------------------------------


def process_of(server: EmbeddedServer, name: str) -> int:
    """The process id of the server (`tritonserver`), of its `front` or of a model.

    Raises `InvalidInput` if it does not run.
    """
    if name == "tritonserver":
        found = server.pid
    elif name == "front":
        found = server.front_pid
    else:
        models = server.python_models().items()
        found = next((pid for pid, line in models if name in line), None)
    if found is None:
        raise InvalidInput(f"{name} does not run; wait until the server is ready")
    return found


def _kill(name: str) -> Callable[[Scene, float, random.Random], None]:
    def act(scene: Scene, _: float, __: random.Random) -> None:
        os.kill(process_of(scene.server, name), signal.SIGKILL)

    return act


def _kill_model(scene: Scene, _: float, dice: random.Random) -> None:
    name = dice.choice(PROCESSES[3:])
    os.kill(process_of(scene.server, name), signal.SIGKILL)


def _stop(name: str) -> Callable[[Scene, float, random.Random], None]:
    def act(scene: Scene, hold_s: float, _: random.Random) -> None:
        pid = process_of(scene.server, name)
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(hold_s)
        finally:
            with contextlib.suppress(ProcessLookupError):  # the watch has replaced it
                os.kill(pid, signal.SIGCONT)

    return act


# -- the network ---------------------------------------------------------------------------------


def _relays(begin: Callable[[Relay, float], None]) -> Callable[[Scene, float, random.Random], None]:
    def act(scene: Scene, hold_s: float, dice: random.Random) -> None:
        delay_s = dice.uniform(0.05, 0.5)
        try:
            for relay in scene.relays:
                begin(relay, delay_s)
            time.sleep(hold_s)
        finally:
            for relay in scene.relays:
                relay.restore()

    return act


def _slow(scene: Scene, hold_s: float, _: random.Random) -> None:
    """Connections that send a byte of a request now and then."""
    with _connections(scene.server, _CONNECTIONS) as connections:
        until, sent = time.monotonic() + hold_s, 0
        while time.monotonic() < until:
            for one, text in connections:
                with contextlib.suppress(OSError):
                    one.send(text[sent % len(text) :][:1])
            sent += 1
            time.sleep(0.1)


def _half_open(scene: Scene, hold_s: float, _: random.Random) -> None:
    """Connections that begin a request, fall silent, and are reset."""
    with _connections(scene.server, _CONNECTIONS) as connections:
        for one, text in connections:
            with contextlib.suppress(OSError):
                one.send(text)
        time.sleep(hold_s)


@contextmanager
def _connections(server: EmbeddedServer, count: int) -> Iterator[list[tuple[socket.socket, bytes]]]:
    """Connections straight to the server's two ports, each with the start of a request.

    They are reset at the end. Those that the server does not accept are left out.
    """
    with ExitStack() as held:
        made = []
        for number in range(count):
            port, text = [(server.ports.http, _HTTP), (server.ports.grpc, _HTTP2)][number % 2]
            one = held.enter_context(socket.socket())
            one.settimeout(1.0)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                one.connect((server.options.host, port))
                made.append((one, text))
        yield made


# -- resources -----------------------------------------------------------------------------------


def _few_descriptors(scene: Scene, hold_s: float, _: random.Random) -> None:
    """The server and its front may open hardly any file, and clients must connect again."""
    with ExitStack() as limits:
        for name in ("tritonserver", "front"):
            pid = process_of(scene.server, name)
            used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            limits.enter_context(_limited(pid, resource.RLIMIT_NOFILE, used + _DESCRIPTORS))
        for relay in scene.relays:
            relay.drop()
            relay.restore()
        with _connections(scene.server, _CONNECTIONS):
            time.sleep(hold_s)


def _little_memory(scene: Scene, hold_s: float, dice: random.Random) -> None:
    """One process of the server may take hardly any more memory."""
    pid = process_of(scene.server, dice.choice(("tritonserver", "front", "ois_segment")))
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    with _limited(pid, resource.RLIMIT_AS, used + _MEMORY_BYTES):
        time.sleep(hold_s)


@contextmanager
def _limited(pid: int, limit: int, value: int) -> Iterator[None]:
    before = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (value, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it did not survive
            resource.prlimit(pid, limit, before)


def _full_shm(_: Scene, hold_s: float, __: random.Random) -> None:
    with _filled(Path("/dev/shm")):
        time.sleep(hold_s)


def _full_disk(scene: Scene, hold_s: float, _: random.Random) -> None:
    """The server dies, and there is no room for the files of the next one."""
    with _filled(Path(tempfile.gettempdir())):
        os.kill(process_of(scene.server, "tritonserver"), signal.SIGKILL)
        time.sleep(hold_s)


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """Every byte of the file system is taken. It must be a small one, see `private.py`."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="ois-chaos-", buffering=0) as file:
        for size in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        yield


_ACTIONS: dict[Fault, Callable[[Scene, float, random.Random], None]] = {
    Fault.KILL_SERVER: _kill("tritonserver"),
    Fault.KILL_FRONT: _kill("front"),
    Fault.KILL_SEGMENT: _kill("ois_segment"),
    Fault.KILL_MODEL: _kill_model,
    Fault.STOP_SERVER: _stop("tritonserver"),
    Fault.STOP_FRONT: _stop("front"),
    Fault.STOP_SEGMENT: _stop("ois_segment"),
    Fault.DROP: _relays(lambda relay, _: relay.drop()),
    Fault.DELAY: _relays(lambda relay, seconds: relay.delay(seconds)),
    Fault.TRUNCATE: _relays(lambda relay, _: relay.truncate()),
    Fault.DUPLICATE: _relays(lambda relay, _: relay.duplicate()),
    Fault.SLOW: _slow,
    Fault.HALF_OPEN: _half_open,
    Fault.DESCRIPTORS: _few_descriptors,
    Fault.MEMORY: _little_memory,
    Fault.FULL_SHM: _full_shm,
    Fault.FULL_DISK: _full_disk,
}
