"""`ois bench chaos` counts what goes wrong, and its relay does the harm that it says."""

from __future__ import annotations

import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ois_benchmarks.chaos import users as users_module
from ois_benchmarks.chaos.faults import Fault
from ois_benchmarks.chaos.private import SHM_BYTES, TMP_BYTES
from ois_benchmarks.chaos.relay import Relay
from ois_benchmarks.chaos.result import Inflicted, add_up, defects, recovery, table
from ois_benchmarks.chaos.run import ChaosPlan
from ois_benchmarks.chaos.users import Counts, Script, User, write_scripts
from ois_benchmarks.load.pictures import read_pictures
from ois_cli.main import main
from ois_client import Client
from ois_client.contract.errors import InvalidInput, OISError, ServerUnavailable
from ois_client.transports.settings import Timeouts
from support.tiny_engines import write_engines

# -- the plan ------------------------------------------------------------------------------------


def test_every_fault_comes_once_per_round_in_an_order_of_the_seed() -> None:
    plan = ChaosPlan(rounds=3, seed=5)
    order, count = plan.order(), len(Fault)
    assert [sorted(order[n * count : (n + 1) * count]) for n in range(3)] == 3 * [sorted(Fault)]
    assert order == ChaosPlan(rounds=3, seed=5).order() != ChaosPlan(rounds=3, seed=6).order()
    assert order[:count] != order[count : 2 * count]


@pytest.mark.parametrize(
    "changes", [{"rounds": 0}, {"users": 65}, {"hold_s": 0}, {"clicks": 25}, {"faults": ()}]
)
def test_a_plan_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        ChaosPlan(**changes)


def test_an_unknown_fault_is_refused_with_those_that_exist(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = [f"--engines={write_engines(tmp_path)}", f"--output={tmp_path / 'chaos.json'}"]
    assert main(["bench", "chaos", "--only", "flood", *where]) == 2
    assert "'flood'; expected one of kill-server, kill-front" in capsys.readouterr().err


# -- the relay -----------------------------------------------------------------------------------


@contextmanager
def echo() -> Iterator[int]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(2**16):
                self.request.sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        running = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        running.start()
        yield int(server.server_address[1])
        server.shutdown()
        running.join()


@pytest.fixture
def relay() -> Iterator[Relay]:
    with echo() as port, Relay(port) as made:
        yield made


def connected(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), timeout=10)


def asked(one: socket.socket, text: bytes) -> bytes:
    """The answer, as far as it came before the end of the connection."""
    got = b""
    try:
        one.sendall(text)
        while len(got) < len(text):
            if not (data := one.recv(2**16)):
                break
            got += data
    except ConnectionError:
        pass
    return got


def test_a_relay_passes_bytes_on_until_it_drops_them(relay: Relay) -> None:
    text = os.urandom(300_000)
    with connected(relay) as one:
        assert asked(one, text) == text
        relay.drop()
        assert asked(one, b"again") == b""
        with connected(relay) as two:
            assert asked(two, b"new") == b""
    relay.restore()
    with connected(relay) as three:
        assert asked(three, text) == text


def test_a_relay_truncates_the_next_reply_and_ends_its_connection(relay: Relay) -> None:
    with connected(relay) as one:
        assert asked(one, b"whole") == b"whole"
        relay.truncate()
        assert asked(one, b"0123456789") == b"01234"
        relay.restore()
        assert asked(one, b"more") == b""


def test_a_relay_sends_what_passes_twice_each_way(relay: Relay) -> None:
    with connected(relay) as one:
        relay.duplicate()
        one.sendall(b"ab")
        got = b""
        while len(got) < 8:
            got += one.recv(100)
        assert got == b"ab" * 4
        relay.restore()


def test_a_relay_delays_both_ways(relay: Relay) -> None:
    with connected(relay) as one:
        relay.delay(0.2)
        began = time.monotonic()
        assert asked(one, b"slow") == b"slow"
        assert time.monotonic() - began >= 0.4


def test_a_relay_without_a_server_ends_connections() -> None:
    with echo() as port:
        pass
    with Relay(port) as made, connected(made) as one:
        assert asked(one, b"anyone?") == b""


# -- the users -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(f"local:{write_engines(tmp_path_factory.mktemp('engines'))}") as made:
        yield made


@pytest.fixture(scope="module")
def script(client: Client) -> Script:
    (made,) = write_scripts(client, [read_pictures()[0].data], clicks=3, seed=0)
    return made


def counted(client: Any, script: Script, enough: Any, timeouts: Timeouts | None = None) -> Counts:
    """Let one user play until `enough(counts)`."""
    over, give_up = threading.Event(), threading.Event()
    user = User(client, [script], timeouts or Timeouts(), over, give_up)
    user.start()
    deadline = time.monotonic() + 30
    while not enough(user.counts) and time.monotonic() < deadline:
        time.sleep(0.01)
    over.set()
    give_up.set()
    user.join()
    return user.counts


def test_right_masks_are_answers_and_nothing_else(client: Client, script: Script) -> None:
    counts = counted(client, script, lambda seen: seen.answered >= 7)
    assert counts.answered >= 7
    assert (counts.wrong, counts.late, counts.failed, counts.untyped) == (0, 0, {}, {})


def test_a_wrong_mask_is_counted(client: Client, script: Script) -> None:
    masks = (script.masks[0], bytes(len(script.masks[1])), script.masks[2])
    wrong = replace(script, masks=masks)
    counts = counted(client, wrong, lambda seen: seen.answered >= 3)
    assert counts.wrong == pytest.approx(counts.answered / 3, abs=1)
    assert counts.wrong


class Broken:
    """A client whose sessions fail as they are told."""

    def __init__(self, client: Client, failures: list[Exception], *, forget: bool = False) -> None:
        self.client, self.failures, self.forget = client, failures, forget

    def open(self, picture: bytes) -> Any:
        session = self.client.open(picture)
        click = session.click

        def failing(*place: Any) -> Any:
            if self.failures:
                if self.forget and session.clicks():
                    session.undo()
                raise self.failures.pop(0)
            return click(*place)

        session.click = failing  # type: ignore[method-assign]
        return session


def test_typed_errors_are_repeated_and_others_are_defects(client: Client, script: Script) -> None:
    failures: list[Exception] = [ServerUnavailable("gone"), ValueError("what"), OISError("odd")]
    counts = counted(Broken(client, failures), script, lambda seen: seen.answered >= 3)
    assert counts.failed == {"SERVER_UNAVAILABLE": 1}
    assert counts.untyped == {"ValueError: what": 1, "OISError: odd": 1}
    assert counts.answered >= 3


def test_a_click_that_is_never_answered_is_lost(client: Client, script: Script) -> None:
    failures: list[Exception] = [ServerUnavailable("gone") for _ in range(10_000)]
    counts = counted(Broken(client, failures), script, lambda seen: seen.failed.total() >= 3)
    assert (counts.answered, counts.lost) == (0, 1)


def test_a_session_that_forgets_a_click_has_lost_it(client: Client, script: Script) -> None:
    broken = Broken(client, [], forget=True)
    seen = counted(broken, script, lambda counts: _break_once(broken, counts) and counts.lost)
    assert seen.lost > 0


def _break_once(broken: Broken, counts: Counts) -> bool:
    if counts.answered >= 2 and not broken.failures and not counts.lost:
        broken.failures.append(ServerUnavailable("gone"))
    return True


def test_a_call_past_its_deadline_is_late(
    client: Client, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users_module, "SLACK_S", -1.0)
    tight = Timeouts(click_s=1e-3, encode_s=1e-3)
    counts = counted(client, script, lambda seen: seen.late >= 3, tight)
    assert counts.late >= 3


# -- the result ----------------------------------------------------------------------------------

FAULTS = [
    Inflicted("kill-server", 1.0, 0.0, 4.0, 1),
    Inflicted("drop", 9.0, 0.5, 0.2, 0),
    Inflicted("kill-server", 12.0, 0.0, None, 2),
]
COUNTS = [
    Counts(5, Counter(SERVER_UNAVAILABLE=2), 0, 0, 1, Counter(), 3.0),
    Counts(7, Counter(SERVER_UNAVAILABLE=1), 1, 2, 0, Counter({"ValueError: x": 4}), 9.5),
]


def test_users_and_faults_are_added_up() -> None:
    document = {
        "clicks": add_up(COUNTS),
        "faults": [{"recover_s": one.recover_s} for one in FAULTS],
        "recovery_s": recovery(FAULTS),
        "skipped": {"full-disk": "it needs root"},
    }
    assert document["clicks"]["answered"] == 12
    assert document["clicks"]["failed"] == {"SERVER_UNAVAILABLE": 3}
    assert document["clicks"]["slowest_s"] == 9.5
    assert list(defects(document).values()) == [1, 2, 1, 4, 1]
    assert list(recovery(FAULTS)) == ["all", "kills", "kill-server", "drop"]
    assert recovery(FAULTS)["kills"]["count"] == 2
    assert recovery(FAULTS)["kills"]["max"] == 4.0
    text = table(document)
    assert "wrong masks: 2" in text
    assert "skipped: full-disk: it needs root" in text


# -- private file systems ------------------------------------------------------------------------

_FILL = """
import shutil, tempfile
from pathlib import Path
from ois_benchmarks.chaos.faults import _filled
from ois_benchmarks.chaos.private import mount_private_folders

why = mount_private_folders()
if why:
    print("skip", why)
else:
    for folder in (Path("/dev/shm"), Path(tempfile.gettempdir())):
        total = shutil.disk_usage(folder).total
        with _filled(folder):
            full = shutil.disk_usage(folder).free
        print(total, full, shutil.disk_usage(folder).free == total)
"""


def test_only_this_process_has_a_full_disk(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    before = shm.stat().st_dev
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _FILL], capture_output=True, text=True, check=True, env=environment
    )
    if done.stdout.startswith("skip"):
        pytest.skip(done.stdout.strip())
    assert done.stdout.splitlines() == [f"{SHM_BYTES} 0 True", f"{TMP_BYTES} 0 True"]
    assert shm.stat().st_dev == before
    assert not list(tmp_path.iterdir())
