"""Takes the documents' picture of the page of `ois demo`, with real engines.

    PYTHONPATH=tests python -m support.demo.picture -o docs/images/demo.jpg

A folder of the shipped photographs with classes, two objects in one of them, the second from a box.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect

from ois_cli.demo.gateway.files import ImageFolder
from ois_cli.demo.gateway.server import Gateway
from ois_cli.demo.samples import PHOTOGRAPHS
from support.demo.page import DemoPage, chromium, open_browser

_PHOTOGRAPH = "coffee.jpg"
_CUP = (300, 60), (310, 240)
_SPOON = (322, 268), (402, 338)  # a box


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--engines", default="engines/ois-photo-cpu")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    program = chromium()
    if program is None:
        parser.error("chromium is not installed")
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        photos.mkdir()
        for sample in PHOTOGRAPHS:
            shutil.copy(sample.path, photos)
        folder = ImageFolder(photos, sorted(photos.iterdir()))
        classes = ["cat", "person", "cup", "spoon"]
        with (
            Gateway(f"local:{given.engines}", port=0, folder=folder, classes=classes) as gateway,
            open_browser(program) as browser,
        ):
            page = browser.new_page(viewport={"width": 1366, "height": 768})
            png = take(DemoPage(page, gateway.url).load(), photos)
    Image.open(io.BytesIO(png)).convert("RGB").save(given.output, quality=85, optimize=True)


def take(page: DemoPage, photos: Path) -> bytes:
    """Click as a person would, and return the picture."""
    with Image.open(photos / _PHOTOGRAPH) as image:
        page.size = image.size
    page.page.get_by_text(_PHOTOGRAPH).click()
    expect(page.status).to_contain_text(f"{_PHOTOGRAPH}, ")
    page.page.locator("#hover").uncheck()
    for number, place in enumerate(_CUP, start=1):
        page.click(*place)
        page.expect_clicks("Object 1", number)
    page.press("3", "n", "b")
    page.drag(*_SPOON)
    page.expect_clicks("Object 2", 5)
    page.press("4")
    return page.page.screenshot()


if __name__ == "__main__":
    main()
