"""`ois annotate` and `ois encode` on a Ray cluster of two workers give what one process gives."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from ois_cli.main import main
from support.tiny_engines import write_engines

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="ray is not installed: pip install -e '.[ray]'",
)

IMAGES, LINES_EACH, CLICKS = 16, 10, 12
PATIENCE_S = 300
#: Ray gives its own processes 30 s to start, which a busy machine can need longer for.
STARTS = 3
#: The cluster of these tests lets only those in who have its token.
ACCESS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
#: Two workers on this machine, until the input ends.
CLUSTER = """
import sys
from ois_cli.batch.on_ray import RayPlan, cluster
with cluster(RayPlan(address="local", workers=2)) as address:
    print(address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines, images, and clicks that take a few seconds; two lines cannot be used."""
    folder = tmp_path_factory.mktemp("ray")
    write_engines(folder / "engines")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for n in range(IMAGES):
        name = f"photos/{n}.png"
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(folder / name)
        lines += [
            {"image": name, "points": [[9 + k, 20 + n % 9]] * CLICKS} for k in range(LINES_EACH)
        ]
    lines.insert(3, {"image": "gone.png", "points": [[1, 1]], "id": "gone"})
    lines.append({"image": "photos/0.png", "points": [[80, 1]]})
    (folder / "clicks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "photos" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OIS_ENGINES", "engines")  # relative: workers start in this folder


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, Any]:
    """What one process makes of the clicks."""
    out = folder / "plain.json"
    words = ["annotate", str(folder / "clicks.jsonl"), "-o", str(out)]
    assert main([*words, "--url", f"local:{folder / 'engines'}?threads=1"]) == 3
    return result(out)


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, psutil.Process]]:
    """The address of the cluster, and the process that started it."""
    words = [sys.executable, "-c", CLUSTER]
    for _ in range(STARTS):
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | ACCESS
        ) as process:
            assert process.stdout is not None
            if address := process.stdout.readline().strip():
                yield address, psutil.Process(process.pid)
                return
    pytest.fail("the cluster did not start")


def result(out: Path) -> dict[str, Any]:
    """The document without its date, and the failed lines."""
    found: dict[str, Any] = json.loads(out.read_text())
    del found["info"]["date_created"]
    errors = out.with_name(out.name + ".errors.jsonl").read_text()
    return {"document": found, "errors": [json.loads(line) for line in errors.splitlines()]}


def start(*words: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ois_cli.main", *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )


def annotate(out: Path, address: str) -> subprocess.Popen[str]:
    words = ("annotate", "clicks.jsonl", "-o", str(out), "--ray", address, "--workers", "2")
    return start(*words, **ACCESS)


def done(journal: Path) -> list[str]:
    """The keys of the finished lines, in the order in which they were finished."""
    lines = journal.read_bytes().split(b"\n")[1:-1] if journal.exists() else []
    return [entry["done"]["key"] for entry in map(json.loads, lines) if "done" in entry]


def workers_of(head: psutil.Process) -> list[psutil.Process]:
    found = []
    for one in head.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            if "_Worker" in " ".join(one.cmdline()):
                found.append(one)
    return found


def connections_of(one: psutil.Process) -> list[Any]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(one.net_connections("tcp"))
    return []


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_that_is_killed_loses_nothing(
    cluster: tuple[str, psutil.Process], plain: dict[str, Any]
) -> None:
    address, head = cluster
    out = Path("killed.json")
    journal = Path("killed.json.journal")
    process = annotate(out, address)
    wait_until(lambda: bool(done(journal)) and len(workers_of(head)) == 2, process)
    mine = head.children(recursive=True)
    workers_of(head)[0].kill()
    assert len(done(journal)) < IMAGES * LINES_EACH
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for one in [head, psutil.Process(process.pid), *mine]
        for connection in connections_of(one)
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3, said
    assert result(out) == plain
    reasons = {one["line"]: one["code"] for one in plain["errors"]}
    assert reasons == {4: "INVALID_IMAGE", IMAGES * LINES_EACH + 2: "INVALID_CLICK"}


def test_the_next_run_computes_only_what_is_missing(
    cluster: tuple[str, psutil.Process], plain: dict[str, Any]
) -> None:
    address, _ = cluster
    out = Path("stopped.json")
    journal = Path("stopped.json.journal")
    process = annotate(out, address)
    wait_until(lambda: bool(done(journal)), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert f"of {IMAGES * LINES_EACH + 2}. Finished lines are kept" in said
    before = done(journal)
    assert 0 < len(before) < IMAGES * LINES_EACH
    assert not out.exists()
    process = annotate(out, address)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3, said
    assert result(out) == plain
    finished = done(journal)  # the lines that failed keep it
    assert finished[: len(before)] == before
    assert len(finished) == len(set(finished)) == IMAGES * LINES_EACH


def test_features_equal_those_of_one_process_and_the_cluster_ends_with_the_command(
    tmp_path: Path,
) -> None:
    words = ("encode", "photos", "--threads", "1", "--json")
    options = ("--output", "shared", "--workers", "2", "--ray")
    for _ in range(STARTS):
        process = start(*words, *options, HOME=str(tmp_path))
        seen: set[psutil.Process] = set()
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                seen.update(psutil.Process(process.pid).children(recursive=True))
            time.sleep(0.2)
        report, said = process.communicate(timeout=PATIENCE_S)
        if "Ray did not start" not in said:
            break
    assert process.returncode == 3, said
    assert seen
    psutil.wait_procs(seen, timeout=20)
    assert not [one for one in seen if one.is_running()]
    assert not (tmp_path / ".ray").exists()  # no token in the home folder
    found = json.loads(report)
    assert (found["images"], found["encoded"], found["already_there"]) == (IMAGES + 1, IMAGES, 0)
    assert [(one["image"], one["code"]) for one in found["failed"]] == [
        ("photos/broken.png", "INVALID_IMAGE")
    ]
    assert main([*words, "--output", "alone"]) == 3
    alone, shared = (
        {path.name: path.read_bytes() for path in Path(name).iterdir()}
        for name in ("alone", "shared")
    )
    assert len(alone) == IMAGES + 1
    assert alone == shared
