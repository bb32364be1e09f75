"""The notebook of the documents in the real JupyterLab: a person clicks in its widget.

JupyterLab has its own environment (`support/environments.py`). To write the documents' notebook
anew, with the outputs of a run with real engines:

    OIS_NOTEBOOK_ENGINES=engines/ois-photo-cpu pytest tests/client/notebook/test_jupyterlab.py
"""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Locator, Page, expect

from support.demo.page import chromium, open_browser
from support.documents import ROOT
from support.environments import environment
from support.tiny_engines import write_engines

PROGRAM = chromium()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here: apt-get install chromium"
)

NOTEBOOK = ROOT / "docs" / "notebooks" / "click.ipynb"
#: Engines of a real network: the notebook is then written back to the documents.
ENGINES = os.environ.get("OIS_NOTEBOOK_ENGINES")
TOKEN = "only-for-this-test"
#: Long, because the machine may be busy; what is there is found at once.
PATIENCE_MS = 240_000
#: The cup of coffee.jpg at 300x200, its spoon, and the wooden table.
CUP, SPOON, TABLE = (150, 30), (180, 140), (270, 20)


@contextmanager
def jupyterlab(python: Path, folder: Path) -> Iterator[str]:
    """JupyterLab on the loopback interface -> its address. Settings and data stay in `folder`."""
    log = folder / "jupyter.log"
    homes = {"HOME": str(folder), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    homes |= {"JUPYTER_DATA_DIR": str(folder / "data"), "JUPYTER_RUNTIME_DIR": str(folder / "run")}
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [str(python), "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--allow-root", f"--IdentityProvider.token={TOKEN}"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--ServerApp.port_retries=0", f"--notebook-dir={folder}"],
            env={**os.environ, **homes, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        until = time.monotonic() + 180
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{url}/api", timeout=30).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


class Reader:
    """A person who reads the notebook and runs its cells."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{url}/lab/tree/click.ipynb?token={TOKEN}")
        self.cells = page.locator(".jp-CodeCell")
        expect(self.cells.first).to_be_visible(timeout=PATIENCE_MS)
        # A cell that is run before the kernel is connected is forgotten.
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=PATIENCE_MS)

    def run(self, number: int) -> Locator:
        """Run a cell, wait for its end -> its output."""
        cell = self.cells.nth(number)
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        expect(cell.locator(".jp-InputPrompt")).to_have_text(
            re.compile(r"\[\d+\]"), timeout=PATIENCE_MS
        )
        return cell.locator(".jp-Cell-outputArea")


class Widget:
    def __init__(self, output: Locator) -> None:
        self.output = output
        self.canvas = output.locator("canvas")
        expect(self.canvas).to_be_visible(timeout=PATIENCE_MS)
        self.says("Click on an object")

    def click(self, at: tuple[float, float], button: Any = "left") -> None:
        """Click on a pixel of the picture of 300x200."""
        box = self.canvas.bounding_box()
        assert box is not None
        x, y = ((at[0] + 0.5) / 300 * box["width"], (at[1] + 0.5) / 200 * box["height"])
        self.canvas.click(position={"x": x, "y": y}, button=button)

    def says(self, text: str) -> None:
        expect(self.output.locator(".status")).to_contain_text(text, timeout=PATIENCE_MS)
        expect(self.output.locator(".ois-click")).not_to_have_class("ois-click waiting")


def read(saved: Path) -> list[list[dict[str, Any]]]:
    """The outputs of each code cell of a saved notebook."""
    cells = json.loads(saved.read_text(encoding="utf-8"))["cells"]
    return [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]


def copy_without_outputs(place: Path) -> None:
    """The documents' notebook as if nobody had run it, so that only this run's outputs are read."""
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    place.write_text(json.dumps(document), encoding="utf-8")


def test_a_reader_of_the_notebook_clicks_in_it(tmp_path: Path) -> None:
    python = environment(
        "jupyterlab", "jupyterlab==4.6.*", "ipykernel==7.*", "-e", f"{ROOT}[cpu,notebook]"
    )
    (tmp_path / "engines").mkdir()
    place = tmp_path / "engines" / "ois-photo-cpu"
    place.symlink_to(Path(ENGINES).resolve() if ENGINES else write_engines(tmp_path / "tiny"))
    notebook = tmp_path / "click.ipynb"
    copy_without_outputs(notebook)
    assert PROGRAM is not None
    with jupyterlab(python, tmp_path) as url, open_browser(PROGRAM) as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 2400})
        reader = Reader(page, url)
        expect(reader.run(0)).to_contain_text(" px, ", timeout=PATIENCE_MS)
        widget = Widget(reader.run(1))
        widget.click(CUP)
        widget.says("after 1 click")
        widget.click(TABLE, "right")
        widget.says("after 2 clicks")
        # In JupyterLab R makes a cell raw text; in the widget's picture it does not.
        for key, answer in (("u", "undone"), ("r", "redone"), ("u", "undone")):
            page.keyboard.press(key)
            widget.says(answer)
        page.keyboard.press("n")
        widget.says("new object")
        widget.click(SPOON)
        widget.says("after 1 click")
        expect(widget.output.locator("button.object")).to_have_count(2)
        (ROOT / "artefacts").mkdir(exist_ok=True)
        page.screenshot(path=ROOT / "artefacts" / "jupyterlab.png")
        clicked = reader.run(2)
        expect(clicked).to_contain_text(
            re.compile(r"object 0: [\d.]+% .*object 1: [\d.]+%", re.S), timeout=PATIENCE_MS
        )
        for picture in (3, 4):  # the session, and a mask alone
            expect(reader.run(picture).locator("img")).to_be_visible(timeout=PATIENCE_MS)
        expect(reader.run(5)).to_contain_text("(200, 300)", timeout=PATIENCE_MS)
        widget.says("")
        page.keyboard.press("Control+s")
        until = time.monotonic() + 60
        while not all(read(notebook)):
            assert time.monotonic() < until, "the notebook was not saved"
            page.wait_for_timeout(200)
    outputs = read(notebook)
    [printed] = [output["text"] for output in outputs[2]]
    lines = "".join(printed).splitlines()
    shares, clicks = zip(
        *(re.fullmatch(r"object \d: ([\d.]+)% of the image, clicks (.*)", line).groups()  # type: ignore[union-attr]
          for line in lines), strict=True
    )  # fmt: skip
    assert all(0 < float(share) < 100 for share in shares)
    for found, (x, y) in zip(clicks, (CUP, SPOON), strict=True):  # the right click was undone
        [(at_x, at_y, positive)] = ast.literal_eval(found)
        assert (abs(at_x - x) <= 1, abs(at_y - y) <= 1, positive) == (True, True, True)
    if ENGINES:
        _write(notebook)


def _write(notebook: Path) -> None:
    """The notebook with its outputs into the documents, without what only this run needs."""
    document = json.loads(notebook.read_text(encoding="utf-8"))
    document["metadata"].pop("widgets", None)
    NOTEBOOK.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def test_the_documents_have_the_outputs_of_a_run() -> None:
    outputs = read(NOTEBOOK)
    assert all(outputs)
    text = json.dumps(outputs)
    assert "error" not in {output["output_type"] for cell in outputs for output in cell}
    assert "image/png" in text
    assert "/tmp" not in text
    assert NOTEBOOK.stat().st_size < 400_000
