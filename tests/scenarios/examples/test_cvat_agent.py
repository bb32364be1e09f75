"""CVAT's own command line runs the agent of the example against a stand-in for CVAT's server."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cvat_sdk import masks as cvat_masks
from PIL import Image

from ois_client import Client
from ois_runtime.engines.local import open_transport
from support.hosts.cvat import TASK, TOKEN, CvatHost
from support.tiny_engines import write_engines

ROOT = Path(__file__).resolve().parents[3]
AGENT = ROOT / "examples" / "cvat" / "agent.py"
README = (AGENT.parent / "README.md").read_text()
WIDTH, HEIGHT = 120, 90
PIXELS = np.random.default_rng(8).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def host() -> Iterator[CvatHost]:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format="PNG")
    host = CvatHost(file.getvalue())
    yield host
    host.close()


def commands_of_the_readme(host: CvatHost, engines: Path) -> list[list[str]]:
    """The two `cvat-cli` commands, with the addresses and the number of this test."""
    lines = re.findall(r"^\$ cvat-cli ((?:.*\\\n)*.*)$", README, re.MULTILINE)
    assert len(lines) == 2
    replaced = [
        line.replace("https://app.cvat.ai", host.url)
        .replace("examples/cvat/agent.py", str(AGENT))
        .replace("grpc://127.0.0.1:8001", f"local:{engines}")
        .replace("FUNCTION_ID", "1")
        for line in lines
    ]
    program = [sys.executable, "-m", "cvat_cli"]
    return [[*program, *line.replace("\\\n", " ").split()] for line in replaced]


def test_the_commands_of_the_readme_answer_an_annotator(host: CvatHost, tmp_path: Path) -> None:
    pytest.importorskip("cvat_cli")
    engines = write_engines(tmp_path / "engines")
    create, run = commands_of_the_readme(host, engines)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def execute(command: list[str], fails: bool = False) -> str:
        ran = subprocess.run(
            command,
            cwd=elsewhere,  # not the example's folder: its neighbours cannot be imported
            env={**os.environ, "CVAT_ACCESS_TOKEN": TOKEN, "HOME": str(elsewhere)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (ran.returncode != 0) is fails, ran.stderr
        return ran.stderr if fails else ran.stdout

    nobody = [word.replace(f"local:{engines}", "grpc://127.0.0.1:1") for word in create]
    said = execute(nobody, fails=True)
    assert "no OIS server answers at grpc://127.0.0.1:1" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert execute(create).strip() == "1"
    assert host.function["kind"] == "interactor"
    assert (host.function["min_pos_points"], host.function["min_neg_points"]) == (1, 0)

    host.ask([[60.5, 45.5]], [])
    host.ask([[60.5, 45.5]], [[5.5, 5.5]])
    host.ask([[500, 45]], [])
    host.ask([[n, 45] for n in range(25)], [])
    host.ask([[40.5, 35.5]], [], roi=[20, 10, 110, 80])
    host.ask([[5, 5]], [], roi=[100, 80, 300, 200])
    host.ask([], [])
    host.ask([[5, 5]], [], task=TASK + 1)  # deleted in the meantime
    host.ask([[60.5, 45.5]], [])
    execute([*run, "--burst"])

    outcomes = [outcome for outcome, _ in host.results]
    assert outcomes == ["complete"] * 2 + ["fail"] * 2 + ["complete"] + ["fail"] * 3 + ["complete"]
    for (_, body), words in zip(
        host.results[5:8], ("Invalid ROI", "not enough positive points", "status 404"), strict=True
    ):
        assert words in body["exc_info"]
    assert (
        "expected x 0..120" in host.results[2][1]["exc_info"]
        or "canvas of a 120x90" in (host.results[2][1]["exc_info"])
    )
    assert "25 positive clicks" in host.results[3][1]["exc_info"]
    with Client(open_transport(str(engines))) as client:
        session = client.open(PIXELS)
        one, two = session.click(60, 45), session.click(5, 5, False)
        region = client.open(np.ascontiguousarray(PIXELS[10:80, 20:110])).click(40, 35)
    for (_, body), mask in zip(
        [host.results[0], host.results[1], host.results[4]], [one, two, region], strict=True
    ):
        [shape] = body["shapes"]
        assert shape["type"] == "mask"
        height, width = mask.shape
        drawn = cvat_masks.decode_mask(shape["points"], image_width=width, image_height=height)
        np.testing.assert_array_equal(drawn, mask)
    assert host.refused == [f"/api/tasks/{TASK + 1}"]
