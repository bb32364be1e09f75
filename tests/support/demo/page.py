"""The demo's page in a real browser. Positions are in pixels of the image."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support.demo.firefox import write_launcher

#: CI keeps them with its log; they are not part of the repository.
SCREENSHOTS = Path(__file__).resolve().parents[3] / "artefacts" / "demo"

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Long, because the machine may be busy; elements that exist are found at once.
expect.set_options(timeout=30_000)

_KEEP_BLOBS = """() => {
    document.getElementById("status").textContent = "";
    const make = Blob.createURL ??= URL.createObjectURL;
    URL.createObjectURL = (blob) => make.call(URL, (Blob.last = blob));
}"""
_READ_BLOB = """async () => {
    const bytes = new Uint8Array(await Blob.last.arrayBuffer());
    return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""

_MARGIN = 16  # around the fitted image, see canvas/view.js
#: The browser's message about 4xx and 5xx responses, which the page handles.
_EXPECTED = re.compile("Failed to load resource")


def chromium() -> str | None:
    """The path of the system's browser, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def firefox() -> str | None:
    """The path of the system's Firefox, or None. Playwright's own Firefox is not needed."""
    return next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)


#: For one page, one process is enough, and starts sooner.
_ONE_PROCESS = {
    "fission.autostart": False,
    "dom.ipc.processCount": 1,
    "dom.ipc.processPrelaunch.enabled": False,
}


@contextmanager
def open_firefox(program: str) -> Iterator[Browser]:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.firefox.launch(
            channel="moz-firefox",
            executable_path=write_launcher(Path(folder), program),
            env={**os.environ, "HOME": folder},
            firefox_user_prefs=_ONE_PROCESS,
            timeout=300_000,  # it starts slowly on a busy machine
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_browser(program: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class DemoPage:
    """One tab. complaints: errors and warnings of the browser, and requests to other hosts."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.size = (1, 1)
        browser = page.context.browser
        self._reads_blobs = browser is not None and browser.browser_type.name == "firefox"
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on("console", self._note_message)
        page.on("request", self._note_request)

    def _note_message(self, message: Any) -> None:
        if message.type in ("error", "warning") and not _EXPECTED.search(message.text):
            self._complain(message.text)

    def _complain(self, text: str) -> None:
        # In Firefox, screenshots insert a style sheet, which the page's policy refuses.
        if not (self._reads_blobs and "blocked an inline style" in text):
            self.complaints.append(text)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, f"blob:{self.url}")):
            self.complaints.append(f"a request to {request.url}")

    # -- actions -----------------------------------------------------------------------------

    def load(self) -> DemoPage:
        self.page.goto(self.url)
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        self.page.locator("html[data-ready]").wait_for()

    def choose(self, path: Path) -> None:
        self.page.locator("#file").set_input_files(path)

    def open(self, path: Path) -> None:
        """Choose an image and wait until it can be clicked."""
        with Image.open(path) as image:
            self.size = image.size
        self.choose(path)
        expect(self.status).to_have_text(re.compile(f"{re.escape(path.name)}.*Click on an object"))

    def scale(self) -> float:
        """Pixels of the window per pixel of the fitted image."""
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        width, height = self.size
        return min((box["width"] - 2 * _MARGIN) / width, (box["height"] - 2 * _MARGIN) / height)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The position in the window of a pixel of the fitted image."""
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        width, height = self.size
        scale = self.scale()
        left = box["x"] + (box["width"] - width * scale) / 2
        top = box["y"] + (box["height"] - height * scale) / 2
        return left + (x + 0.5) * scale, top + (y + 0.5) * scale

    def click(self, x: float, y: float, **options: Any) -> None:
        self.page.mouse.click(*self.place(x, y), **options)

    def drag(
        self, start: tuple[float, float], end: tuple[float, float], button: Any = "left"
    ) -> None:
        self.page.mouse.move(*self.place(*start))
        self.page.mouse.down(button=button)
        self.page.mouse.move(*self.place(*end), steps=6)
        self.page.mouse.up(button=button)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def save(self, kind: str) -> bytes:
        """Press a button that saves a file, and return the file."""
        if self._reads_blobs:
            return self._saved_blob(kind)
        with self.page.expect_download() as download:
            self.page.locator(f"#save-{kind}").click()
        return Path(download.value.path()).read_bytes()

    def _saved_blob(self, kind: str) -> bytes:
        """As `save`, where Playwright cannot see downloads: what the page gives the browser."""
        self.page.evaluate(_KEEP_BLOBS)
        self.page.locator(f"#save-{kind}").click()
        expect(self.status).to_contain_text("Saved")
        return base64.b64decode(self.page.evaluate(_READ_BLOB))

    # -- state -------------------------------------------------------------------------------

    @property
    def status(self) -> Any:
        return self.page.locator("#status")

    @property
    def trouble(self) -> Any:
        return self.page.locator("#trouble")

    def expect_clicks(self, name: str, count: int) -> None:
        words = f"after {count} click{'s' if count > 1 else ''}"
        expect(self.status).to_have_text(re.compile(f"^{name}: .*{words}"))

    def sizes(self) -> Sequence[str]:
        """The sizes of the objects, as the list shows them."""
        found: list[str] = self.page.locator("#objects small").all_inner_texts()
        return found

    def mask(self) -> NDArray[np.uint8]:
        """The saved mask picture."""
        return np.asarray(Image.open(io.BytesIO(self.save("mask"))))

    def picture(self) -> NDArray[np.uint8]:
        """The canvas as drawn, (H, W, 3) uint8."""
        png = self.page.locator("#stage").screenshot()
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def keep(self, name: str) -> None:
        """Save a screenshot to CI's artefacts."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")
