"""The real X-AnyLabeling, without a screen, with our remote model started as in its README.

X-AnyLabeling has its own environment (`support/environments.py`), and
`support/desktop/x_anylabeling.py` drives its window.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ois_client import Client
from ois_client.formats.polygons import Ring, mask_of_rings
from ois_runtime.engines.local import open_transport
from support.documents import ROOT, blocks
from support.environments import environment
from support.tiny_engines import write_engines

EXAMPLE = ROOT / "examples" / "x_anylabeling"
DRIVER = ROOT / "tests" / "support" / "desktop" / "x_anylabeling.py"
WIDTH, HEIGHT = 160, 120
PIXELS = np.random.default_rng(8).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def started_as_in_the_readme(engines: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The server of the README's last command on a free port -> its process and address."""
    lines = [w for b in blocks(EXAMPLE / "README.md") for w in b.commands()]
    [words] = [w for w in lines if "remote_server" in w]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    assert words[-3:] == ["python", "-m", "remote_server"], shlex.join(words)
    environ = {**os.environ, **settings, "OIS_URL": f"local:{engines}", "PORT": "0"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "remote_server"], cwd=EXAMPLE, env=environ, stderr=output
        )
    until = time.monotonic() + 60
    while not (found := re.search(r"running on (http://\S+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    return process, found[1]


class Program:
    """The running X-AnyLabeling."""

    def __init__(self, python: Path, photo: Path, work: Path) -> None:
        self._log = (work / "program.log").open("w")
        self._process = subprocess.Popen(
            [str(python), str(DRIVER), str(photo), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "HOME": str(work)},
        )
        self.log = work / "program.log"
        self._read(lambda line: line == "ready\n")

    def _read(self, wanted: Any) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if wanted(line):
                return line
        raise AssertionError(self.log.read_text()[-3000:])

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._read(lambda line: line.startswith("{")))
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._log.close()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    python = environment("x-anylabeling", "x-anylabeling-cvhub[cpu]==4.2.1")
    photo = tmp_path / "photo.png"
    Image.fromarray(PIXELS).save(photo)
    program = Program(python, photo, tmp_path)
    yield program
    program.close()


def mask_of(shapes: list[dict[str, Any]], label: str) -> np.ndarray:
    rings = [Ring(np.array(s["points"]), hole=False) for s in shapes if s["label"] == label]
    return mask_of_rings(rings, WIDTH, HEIGHT)


def agree(got: np.ndarray, expected: np.ndarray) -> bool:
    """The polygon is simplified as the slider says, and the window rounds a click to its pixels."""
    return bool((got & expected).sum() / max(1, (got | expected).sum()) > 0.85)


def test_a_person_clicks_names_and_saves_an_object(program: Program, tmp_path: Path) -> None:
    engines = write_engines(tmp_path / "engines")
    server, url = started_as_in_the_readme(engines, tmp_path / "server.log")
    try:
        seen = program.ask("connect", url=url)
        assert seen["model"] == "OIS tiny-test"
        assert seen["buttons"] == {
            "button_add_point": True,
            "button_remove_point": True,
            "button_add_rect": False,
        }
        with Client(open_transport(str(engines))) as client:
            session = client.open(PIXELS)
            one, two = session.click(80, 60), session.click(5, 5, False)
        seen = program.ask("click", x=80, y=60, positive=True)
        assert agree(mask_of(seen["shapes"], "AUTOLABEL_OBJECT"), one)
        seen = program.ask("click", x=5, y=5, positive=False)
        assert agree(mask_of(seen["shapes"], "AUTOLABEL_OBJECT"), two)
        program.ask("finish", label="cup")
        saved = program.ask("save")
        assert {shape["label"] for shape in saved["shapes"]} == {"cup"}
        assert agree(mask_of(saved["shapes"], "cup"), two)
    finally:
        server.terminate()
        server.wait(timeout=30)

    # The server is gone: the click and the finished object stay, and the program says why.
    seen = program.ask("click", x=20, y=90, positive=True)
    assert {s["label"] for s in seen["shapes"]} == {"cup", "AUTOLABEL_ADD"}
    assert any("Remote server error" in text for text in seen["said"])
