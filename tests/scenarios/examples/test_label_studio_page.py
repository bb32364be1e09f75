"""The real Label Studio with our backend: connect, click, refine, reload, accept, submit, export.

Both are started as the README says, each in an environment of its own
(`support/environments.py`): Label Studio's pinned packages conflict with ours, and the backend gets
only what its README installs. OIS_LABEL_STUDIO=path/to/label-studio uses an installed one.

It runs on SQLite and the loopback interface.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from ois_client import Client
from ois_client.formats.brush import mask_of_brush
from ois_runtime.engines.local import open_transport
from support.demo.page import chromium, open_browser
from support.documents import ROOT, blocks
from support.environments import environment
from support.server.ports import free_port
from support.tiny_engines import write_engines

EXAMPLE = ROOT / "examples" / "label_studio"
USER, PASSWORD, TOKEN = "ada@example.com", "only-for-this-test", "0123456789" * 4
#: Engines of a real network: the test then clicks on a photograph, for the README's pictures.
ENGINES = os.environ.get("OIS_LABEL_STUDIO_ENGINES")
if ENGINES:
    COFFEE = ROOT / "export" / "ois_export" / "photos" / "coffee.jpg"
    PIXELS = np.asarray(Image.open(COFFEE).convert("RGB"))
    CLICKS = [(300, 60, True), (500, 350, False), (310, 240, True)]  # a pixel off, the same mask
else:
    PIXELS = np.random.default_rng(8).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    CLICKS = [(64, 54, True), (16, 14, False), (80, 60, True)]
HEIGHT, WIDTH = PIXELS.shape[:2]

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")


@contextmanager
def running(command: list[str], health: str, log: Path, **environment: str) -> Iterator[None]:
    """A server until the block ends. It is up when `health` answers."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=EXAMPLE,  # as the README says for the backend
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
        try:
            until = time.monotonic() + 600  # the first start writes the database
            while True:
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < until, log.read_text()[-2000:]
                try:
                    urllib.request.urlopen(health, timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


class Studio:
    """Label Studio's HTTP interface."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, body: object = None, kind: str = "json") -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body else None
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": f"application/{kind}"}
        if kind != "json":
            headers["Content-Type"] = kind
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.loads(reply.read() or "null")

    def project_with_one_image(self, png: bytes) -> int:
        config = (EXAMPLE / "label_config.xml").read_text()
        project = self.ask("POST", "/api/projects/", {"title": "clicks", "label_config": config})
        self.import_image(int(project["id"]), png)
        return int(project["id"])

    def import_image(self, number: int, png: bytes) -> None:
        part = b'Content-Disposition: form-data; name="file"; filename="photo.png"'
        form = b"--edge\r\n" + part + b"\r\nContent-Type: image/png\r\n\r\n" + png
        self.ask(
            "POST",
            f"/api/projects/{number}/import",
            form + b"\r\n--edge--\r\n",
            "multipart/form-data; boundary=edge",
        )


@dataclass(frozen=True)
class Place:
    """Label Studio and our backend. folder: Label Studio's data, and both logs."""

    studio: Studio
    backend: str
    folder: Path

    @contextmanager
    def without_the_image(self) -> Iterator[None]:
        """The one uploaded file is gone until the block ends."""
        [upload] = self.folder.glob("media/upload/*/*")
        away = upload.rename(self.folder / "away")
        yield
        away.rename(upload)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(ENGINES) if ENGINES else write_engines(tmp_path_factory.mktemp("engines"))


def line_of_the_readme(*ending: str) -> dict[str, str]:
    """The variables of the README's command with this ending."""
    lines = [words for block in blocks(EXAMPLE / "README.md") for words in block.commands()]
    [words] = [words for words in lines if tuple(words[-len(ending) :]) == ending]
    return dict(word.split("=", 1) for word in words[: -len(ending)])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, engines: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("label-studio")
    ports = free_port(), free_port()
    studio, backend = (f"http://127.0.0.1:{port}" for port in ports)
    given = os.environ.get("OIS_LABEL_STUDIO")
    program = given or environment("label-studio", "label-studio==1.23.*").with_name("label-studio")
    readme = line_of_the_readme("label-studio", "start")
    start = [str(program), "start", "--no-browser", "--data-dir", str(folder), "--username", USER]
    start += ["--password", PASSWORD, "--user-token", TOKEN, "--enable-legacy-api-token"]
    start += ["--internal-host", "127.0.0.1", "--port", str(ports[0])]
    offline = {
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        **readme,
    }
    asked = line_of_the_readme("python", "-m", "backend")
    answers = {
        "OIS_URL": f"local:{engines.resolve()}",
        "LABEL_STUDIO_URL": studio,
        "LABEL_STUDIO_API_KEY": TOKEN,
    }
    assert set(asked) == set(answers)
    needed = str(EXAMPLE / "requirements.txt")
    python = environment("label-studio-backend", "-e", f"{ROOT}[cpu]", "-r", needed)
    with (
        running(start, f"{studio}/health", folder / "studio.log", **offline),
        running(
            [str(python), "-m", "backend"],
            f"{backend}/health",
            folder / "backend.log",
            PORT=str(ports[1]),
            **answers,
        ),
    ):
        yield Place(Studio(studio), backend, folder)


class Annotator:
    """A person at Label Studio's page of one task."""

    def __init__(self, page: Page, studio: Studio, project: int, task: int) -> None:
        self.page = page
        page.set_default_timeout(60_000)
        page.goto(f"{studio.url}/user/login/")
        page.fill("input[name=email]", USER)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_url(re.compile(r"/(projects.*)?$"))
        page.goto(f"{studio.url}/projects/{project}/data?task={task}")
        self._picture = page.locator(".konvajs-content canvas").first
        self._picture.wait_for()

    def press(self, name: str) -> None:
        self.page.locator(f"[data-testid=bottombar-{name}]").click()

    def click(self, x: int, y: int, positive: bool) -> np.ndarray:
        """Choose the label and the tool, click on pixel (x, y) -> the suggested mask."""
        [region] = self.ask(x, y, positive)["data"]["result"]
        return mask_of_brush(region["value"]["rle"], WIDTH, HEIGHT)

    def ask(self, x: int, y: int, positive: bool) -> dict[str, Any]:
        """As `click` -> what Label Studio answers to its page."""
        with self.page.expect_response(re.compile("interactive-annotating")) as answer:
            self.press_at(x, y, positive)
        found: dict[str, Any] = answer.value.json()
        return found

    def press_at(self, x: int, y: int, positive: bool) -> None:
        self.page.locator(".lsf-label").first.click()
        self.page.keyboard.press("m")  # the tool Auto-Detect
        box = self._picture.bounding_box()
        assert box is not None
        at = (box["x"] + (x + 0.5) / WIDTH * box["width"],
              box["y"] + (y + 0.5) / HEIGHT * box["height"])  # fmt: skip
        if not positive:
            self.page.keyboard.down("Alt")
        self.page.mouse.click(*at)
        self.page.keyboard.up("Alt")


def agree(got: np.ndarray, expected: np.ndarray) -> bool:
    """The page rounds a click to its own pixels, so masks may differ along the outline."""
    return bool((got & expected).sum() / (got | expected).sum() > 0.9)


def test_a_person_segments_an_object(place: Place, engines: Path) -> None:
    studio, backend = place.studio, place.backend
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format="PNG")
    project = studio.project_with_one_image(file.getvalue())
    connected = studio.ask(
        "POST",
        "/api/ml/",
        {"project": project, "title": "OIS", "url": backend, "is_interactive": True},
    )
    assert connected["readable_state"] == "Connected"
    [task] = studio.ask("GET", f"/api/tasks?project={project}")["tasks"]
    with Client(open_transport(str(engines))) as client:
        session = client.open(PIXELS)
        masks = [session.click(x, y, positive) for x, y, positive in CLICKS]

    program = chromium()
    assert program is not None
    with open_browser(program) as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        person = Annotator(page, studio, project, task["id"])
        person.press("auto-annotation-toggle")
        # The image cannot be had: Label Studio keeps the click, and the next one brings both.
        with place.without_the_image():
            assert "400 Client Error" in person.ask(*CLICKS[0])["errors"][0]
            log = (place.folder / "backend.log").read_text()
            assert re.search(r"answers [45]0.; expected the task's image", log)
        with page.expect_response(
            lambda one: "/drafts" in one.url and one.request.method in ("POST", "PATCH")
        ):
            assert agree(person.click(*CLICKS[1]), masks[1])
        page.wait_for_timeout(5000)  # drafts are saved with a delay
        # After a reload the key points come from the draft, without their signs.
        page.reload()
        page.locator(".konvajs-content canvas").first.wait_for()
        assert agree(person.click(*CLICKS[2]), masks[2])
        (ROOT / "artefacts").mkdir(exist_ok=True)
        page.screenshot(path=ROOT / "artefacts" / "label-studio.png")
        person.press("accept-suggestions-button")
        with page.expect_response(re.compile(r"/api/tasks/\d+/annotations")) as submitted:
            person.press("submit-button")
        assert submitted.value.status == 201
        [exported] = studio.ask("GET", f"/api/projects/{project}/export?exportType=JSON")
        regions = exported["annotations"][0]["result"]
        [mask] = [one for one in regions if one["type"] == "brushlabels"]
        assert mask["value"]["brushlabels"] == ["object"]
        assert agree(mask_of_brush(mask["value"]["rle"], WIDTH, HEIGHT), masks[2])
        # Somebody deletes a task while it is open: Label Studio says so.
        studio.import_image(project, file.getvalue())
        *_, other = studio.ask("GET", f"/api/tasks?project={project}")["tasks"]
        page.goto(f"{studio.url}/projects/{project}/data?task={other['id']}")
        page.locator(".konvajs-content canvas").first.wait_for()
        studio.ask("DELETE", f"/api/tasks/{other['id']}")
        person.press_at(*CLICKS[2])
        page.get_by_text("Runtime error: Not Found", exact=True).wait_for()
        if ENGINES:
            page.goto(f"{studio.url}/projects/{project}/settings/ml")
            page.get_by_text("Connected", exact=True).wait_for()
            page.screenshot(path=ROOT / "artefacts" / "label-studio-model.png")
