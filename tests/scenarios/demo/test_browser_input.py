"""Input to the page of `ois demo` in Chromium: files, keyboard, mouse, touch and a slow network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_client.sessions.session import Session

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect  # noqa: E402

from support.demo.page import DemoPage, chromium  # noqa: E402

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium here: apt-get install chromium"
)

WIDTH, HEIGHT = 112, 84  # of `photo`
POINT = 56, 42

OpenPage = Callable[..., DemoPage]


def test_alt_and_the_switch_add_negative_clicks(
    open_page: OpenPage, photo: Path, session: Session
) -> None:
    page = open_page()
    page.open(photo)
    for x, y, positive in ((40, 40, True), (70, 20, False), (90, 60, False)):
        session.click(x, y, positive)
    page.click(40, 40)
    page.page.keyboard.down("Alt")
    page.click(70, 20)
    page.page.keyboard.up("Alt")
    page.page.keyboard.press("r")
    page.click(90, 60)
    page.expect_clicks("Object 1", 3)
    np.testing.assert_array_equal(page.mask() > 0, session.mask() > 0)


def test_a_broken_file_changes_nothing(open_page: OpenPage, photo: Path, tmp_path: Path) -> None:
    page = open_page()
    page.open(photo)
    page.click(40, 40)
    page.expect_clicks("Object 1", 1)
    before = page.mask()
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture", encoding="utf-8")
    page.choose(text)
    expect(page.trouble).to_contain_text("notes.jpg could not be opened: image bytes: not an image")
    page.keep("7-broken-file")
    large = tmp_path / "large.tif"
    with large.open("wb") as file:
        file.truncate(65 * 2**20)
    page.choose(large)
    expect(page.trouble).to_contain_text("large.tif has 65 MiB; the demo accepts up to 64")
    page.page.get_by_role("button", name="Dismiss").click()
    expect(page.trouble).to_be_hidden()
    np.testing.assert_array_equal(page.mask(), before)


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_images_are_pasted_and_dropped(open_page: OpenPage, photo: Path, way: str) -> None:
    page = open_page()
    body = page.page.locator("body")
    carry = """(body, [way, bytes]) => {
        const data = new DataTransfer();
        if (bytes) data.items.add(new File([Uint8Array.from(bytes)], "carried.png"));
        const kind = way === "paste" ? ClipboardEvent : DragEvent;
        const options = { clipboardData: data, dataTransfer: data, bubbles: true };
        body.dispatchEvent(new kind(way, options));
    }"""
    body.evaluate(carry, [way, None])
    expect(page.trouble).to_contain_text("no image" if way == "paste" else "not a file")
    body.evaluate(carry, [way, list(photo.read_bytes())])
    expect(page.status).to_have_text(f"carried.png, {WIDTH} × {HEIGHT} pixels. Click on an object.")
    expect(page.trouble).to_be_hidden()


def test_the_keyboard_is_enough(open_page: OpenPage, photo: Path, session: Session) -> None:
    page = open_page(color_scheme="dark")
    page.open(photo)
    keys = page.page.keyboard
    page.page.locator("#closer").focus()
    keys.press("Tab")
    expect(page.page.locator("#canvas")).to_be_focused()
    for key in ("Shift+ArrowLeft", "Shift+ArrowUp", "Shift+ArrowUp"):
        keys.press(key)
    place = page.status.inner_text()
    x, y = map(int, re.findall(r"\d+", place))
    assert abs(x - WIDTH / 2) <= 2
    assert abs(y - HEIGHT / 2) <= 3
    keys.press("Enter")
    page.expect_clicks("Object 1", 1)
    keys.press("ArrowRight")
    moved, _ = map(int, re.findall(r"\d+", page.status.inner_text()))
    keys.press("Backspace")
    page.expect_clicks("Object 1", 2)
    page.keep("8-keyboard-dark")
    session.click(x, y)
    session.click(moved, y, positive=False)
    np.testing.assert_array_equal(page.mask() > 0, session.mask() > 0)
    keys.press("?")
    expect(page.page.get_by_role("dialog")).to_be_visible()
    page.keep("9-help-dark")
    keys.press("n")
    keys.press("Escape")
    expect(page.page.get_by_role("dialog")).to_be_hidden()
    assert page.page.locator("#objects .pick").count() == 1


def test_wheel_and_drag_move_the_view_without_a_click(open_page: OpenPage, photo: Path) -> None:
    page = open_page()
    page.open(photo)
    zoom = page.page.locator("#zoom")
    fitted = zoom.inner_text()
    mouse = page.page.mouse
    mouse.move(*page.place(56, 42))
    mouse.wheel(0, -400)
    expect(zoom).not_to_have_text(fitted)
    for button, key in (("left", None), ("middle", None), ("left", "Space")):
        before = page.picture()
        mouse.move(*page.place(56, 42))
        if key:
            page.page.keyboard.down(key)
        mouse.down(button=button)
        mouse.move(*page.place(62, 48), steps=4)
        mouse.up(button=button)
        if key:
            page.page.keyboard.up(key)
        assert (page.picture() != before).any()
    assert page.sizes() == ["no clicks"]
    page.page.locator("#canvas").focus()
    page.page.keyboard.press("0")
    expect(zoom).to_have_text(fitted)


def test_touch_on_a_small_screen(open_page: OpenPage, photo: Path, session: Session) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.open(photo)
    page.page.touchscreen.tap(*page.place(40, 40))
    page.expect_clicks("Object 1", 1)
    page.keep("10-phone")
    session.click(40, 40)
    zoom = page.page.locator("#zoom")
    fitted = zoom.text_content()
    fingers = page.page.context.new_cdp_session(page.page)
    x, y = page.place(*POINT)

    def touch(kind: str, *gaps: float) -> None:
        points = [{"x": x + gap, "y": y, "id": index} for index, gap in enumerate(gaps)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0)  # a long press is a negative click
    page.expect_clicks("Object 1", 2)
    touch("touchEnd")
    session.click(*POINT, positive=False)
    touch("touchStart", -20, 20)
    for gap in (30, 45, 60):
        touch("touchMove", -gap, gap)
    touch("touchEnd")
    assert zoom.text_content() != fitted
    np.testing.assert_array_equal(page.mask() > 0, session.mask() > 0)
    for width in ("scrollWidth", "clientWidth"):
        assert page.page.locator("html").evaluate(f"(html) => html.{width}") == 360


def test_a_photograph_of_24_megapixels(open_page: OpenPage, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = tmp_path / "large.jpg"
    Image.fromarray(pixels).resize((6000, 4000)).save(path, quality=85)
    page = open_page()
    page.open(path)
    page.click(4500, 1000)
    page.expect_clicks("Object 1", 1)
    mask = page.mask()
    assert mask.shape == (4000, 6000)
    assert mask[1000, 4500]
    rows, columns = np.nonzero(mask)
    assert abs(columns.mean() - 4500) < 30
    assert abs(rows.mean() - 1000) < 30


def test_a_slow_upload_shows_its_progress_and_can_be_stopped(
    open_page: OpenPage, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    path = tmp_path / "slow.png"
    Image.fromarray(pixels).save(path)  # 1.4 MB of noise
    page = open_page()
    link = page.page.context.new_cdp_session(page.page)
    link.send("Network.enable")
    conditions = {"offline": False, "latency": 20, "downloadThroughput": -1}
    link.send("Network.emulateNetworkConditions", {**conditions, "uploadThroughput": 300_000})
    page.choose(path)
    busy = page.page.locator("#busy")
    expect(busy).to_contain_text("Sending slow.png")
    page.page.wait_for_timeout(1000)
    share = float(page.page.locator("#busy-bar").get_attribute("value") or 0)
    assert 0 < share < 1
    page.keep("11-slow-link")
    busy.get_by_role("button", name="Cancel").click()
    expect(page.status).to_have_text("Opening slow.png was stopped.")
    expect(busy).to_be_hidden()
    expect(page.page.locator("#welcome")).to_be_visible()
