"""The demo's page in a real browser, as a person uses it: places are pixels of the image."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

#: Kept by CI beside its log; not part of the repository.
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
#: The tests share a machine with others; what is there is found at once anyway.
expect.set_options(timeout=30_000)

_MARGIN = 16  # of the fitted image, see view.js
#: Of 4xx and 5xx, which the page tells in its own words.
_EXPECTED = re.compile("Failed to load resource")


def chromium() -> str | None:
    """The system's browser; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def open_browser(program: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class DemoPage:
    """One tab. Whatever the browser complains of is in `complaints`."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.size = (1, 1)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._heard)
        page.on("request", self._asked)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and not _EXPECTED.search(message.text):
            self.complaints.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url, f"blob:{self.url}")):
            self.complaints.append(f"a request to {request.url}")

    # -- what a person does ----------------------------------------------------------------

    def load(self) -> DemoPage:
        self.page.goto(self.url)
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        self.page.locator("html[data-ready]").wait_for()

    def choose(self, path: Path) -> None:
        self.page.locator("#file").set_input_files(path)

    def open(self, path: Path) -> None:
        """Choose an image and wait until it can be clicked on."""
        with Image.open(path) as image:
            self.size = image.size
        self.choose(path)
        expect(self.status).to_have_text(re.compile(f"{re.escape(path.name)}.*Click on an object"))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where the fitted image's pixel is in the window."""
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        width, height = self.size
        scale = min((box["width"] - 2 * _MARGIN) / width, (box["height"] - 2 * _MARGIN) / height)
        left = box["x"] + (box["width"] - width * scale) / 2
        top = box["y"] + (box["height"] - height * scale) / 2
        return left + (x + 0.5) * scale, top + (y + 0.5) * scale

    def click(self, x: float, y: float, **options: Any) -> None:
        self.page.mouse.click(*self.place(x, y), **options)

    def save(self, kind: str) -> bytes:
        with self.page.expect_download() as download:
            self.page.locator(f"#save-{kind}").click()
        return Path(download.value.path()).read_bytes()

    # -- what a person sees ----------------------------------------------------------------

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
        """What the list says of every object's size."""
        found: list[str] = self.page.locator("#objects small").all_inner_texts()
        return found

    def mask(self) -> NDArray[np.uint8]:
        """The saved mask picture."""
        return np.asarray(Image.open(io.BytesIO(self.save("mask"))))

    def picture(self) -> NDArray[np.uint8]:
        """The stage as drawn, (H, W, 3)."""
        png = self.page.locator("#stage").screenshot()
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def keep(self, name: str) -> None:
        """A screenshot for people who look at CI's artefacts."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")
