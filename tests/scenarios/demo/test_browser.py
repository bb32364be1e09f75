"""`ois demo` end to end: the page in Chromium, the gateway, a real Triton server and engines."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ois_client.sessions.client import Client
from ois_client.sessions.session import Session
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.local import LocalTransport

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect  # noqa: E402

from ois_cli.demo.gateway.server import Gateway  # noqa: E402
from support.demo.page import DemoPage, chromium, open_browser  # noqa: E402

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium here: apt-get install chromium"
)

WIDTH, HEIGHT = 112, 84
POINT = 56, 42

OpenPage = Callable[..., DemoPage]


@pytest.fixture(scope="module")
def mortal(engines: Path) -> Iterator[EmbeddedServer]:
    """A server that only this file uses, so that tests may kill it."""
    with EmbeddedServer(engines, ServerOptions(cache_bytes=64 * 2**20)) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(mortal: EmbeddedServer) -> Iterator[Gateway]:
    with Gateway(mortal.grpc_url, where="Triton on this machine", port=0) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = chromium()
    assert program is not None
    with open_browser(program) as opened:
        yield opened


@pytest.fixture
def open_page(browser: Any, gateway: Gateway) -> Iterator[OpenPage]:
    """Opens tabs with separate profiles. Fails at the end if a page has logged errors."""
    pages: list[DemoPage] = []

    def opened(url: str = gateway.url, **options: Any) -> DemoPage:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        pages.append(DemoPage(context.new_page(), url))
        return pages[-1].load()

    yield opened
    for page in pages:
        page.page.context.close()
    assert [complaint for page in pages for complaint in page.complaints] == []


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of a ramp that gets nearer to the right, so depth and masks are easy to predict."""
    ramp = np.tile(np.linspace(60, 200, WIDTH).astype(np.uint8), (HEIGHT, 1))
    path = tmp_path / "ramp.png"
    Image.fromarray(np.dstack((ramp, ramp, 255 - ramp))).save(path)
    return path


@pytest.fixture
def session(local: LocalTransport, photo: Path) -> Session:
    """A session on the same engines in this process, for the expected masks."""
    return Client(local).open(photo)


def test_click_refine_undo_redo(open_page: OpenPage, photo: Path, session: Session) -> None:
    page = open_page()
    page.keep("1-welcome")
    page.open(photo)
    page.click(40, 40)
    page.expect_clicks("Object 1", 1)
    first = session.click(40, 40)
    np.testing.assert_array_equal(page.mask() > 0, first > 0)
    page.click(90, 60, button="right")
    page.expect_clicks("Object 1", 2)
    second = session.click(90, 60, positive=False)
    assert second.sum() < first.sum()
    np.testing.assert_array_equal(page.mask() > 0, second > 0)
    page.page.keyboard.press("Control+z")
    np.testing.assert_array_equal(page.mask() > 0, first > 0)
    page.page.keyboard.press("Control+Shift+Z")
    np.testing.assert_array_equal(page.mask() > 0, second > 0)
    page.page.get_by_role("button", name="Undo").click()
    page.page.get_by_role("button", name="Undo").click()
    assert page.sizes() == ["no clicks"]
    expect(page.page.locator("#save-mask")).to_be_disabled()
    expect(page.page.locator("#undo-button")).to_be_disabled()


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


def test_several_objects_and_their_files(open_page: OpenPage, photo: Path) -> None:
    page = open_page()
    page.open(photo)
    page.click(30, 30)
    page.expect_clicks("Object 1", 1)
    page.page.keyboard.press("n")
    page.click(85, 50)
    page.expect_clicks("Object 2", 1)
    row = page.page.locator("#objects .pick").nth(1)
    row.dblclick()
    page.page.keyboard.type("the lamp")
    page.page.keyboard.press("Enter")
    page.keep("2-objects")
    assert set(np.unique(page.mask())) == {0, 1, 2}
    coco = json.loads(page.save("coco"))
    assert [one["ois_id"] for one in coco["annotations"]] == ["Object 1", "the lamp"]
    assert coco["images"][0]["file_name"] == "ramp.png"
    page.page.get_by_role("button", name="Hide Object 1").click()
    assert page.save("cutout").startswith(b"\x89PNG")
    assert len(json.loads(page.save("coco"))["annotations"]) == 1
    page.page.get_by_role("button", name="Delete the lamp").click()
    assert page.page.locator("#objects .pick").count() == 1
    page.page.keyboard.press("Control+z")
    assert page.page.locator("#objects .pick").count() == 2


def test_a_preview_follows_the_pointer(open_page: OpenPage, photo: Path) -> None:
    page = open_page()
    page.open(photo)
    before = page.picture()
    with page.page.expect_response("**/api/clicks") as asked:
        page.page.mouse.move(*page.place(50, 40))
    assert asked.value.status == 200
    page.page.wait_for_timeout(300)
    hovering = page.picture()
    assert (hovering != before).any(axis=2).sum() > 1000
    page.page.mouse.move(5, 5)
    page.page.wait_for_timeout(100)
    np.testing.assert_array_equal(page.picture(), before)
    assert page.sizes() == ["no clicks"]


def test_the_network_s_inputs_are_shown(open_page: OpenPage, photo: Path) -> None:
    page = open_page()
    page.open(photo)
    labels = page.page.locator("#layers label")
    expect(labels).to_have_text(["Photograph", "Depth"])
    page.click(40, 40)
    page.expect_clicks("Object 1", 1)
    expect(labels).to_have_text(["Photograph", "Depth", "Order M⁺", "Patches +"])
    page.page.get_by_text("Patches +").click()
    expect(page.page.locator("#layer-text")).to_contain_text("may look at all 12 patches")
    page.click(90, 60, button="right")
    page.expect_clicks("Object 1", 2)
    expect(labels).to_have_text(
        ["Photograph", "Depth", "Order M⁺", "Order M⁻", "Patches +", "Patches −"]
    )
    expect(page.page.locator("#layer-text")).to_contain_text(re.compile("of 12 patches: those on"))
    page.keep("3-patches")
    photograph = page.picture()
    page.page.get_by_text("Depth", exact=True).click()
    expect(page.page.locator("#legend")).to_contain_text("near")
    assert (page.picture() != photograph).any(axis=2).mean() > 0.2
    page.keep("4-depth")
    page.page.locator("#canvas").focus()
    page.page.keyboard.press("v")
    expect(page.page.locator("#legend")).to_contain_text("at the click’s depth")
    page.keep("5-order")
    page.page.locator("#inside summary").click()
    expect(page.page.locator("#legend")).to_be_hidden()


def test_a_killed_server_loses_no_click(
    open_page: OpenPage,
    mortal: EmbeddedServer,
    photo: Path,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Long enough for the page to show that the server is away.
    monkeypatch.setattr("ois_runtime.embedded.server._PAUSES_S", (4.0,))
    page = open_page()
    page.open(photo)
    page.click(40, 40)
    page.expect_clicks("Object 1", 1)
    session.click(40, 40)
    pid, restarts = mortal.pid, mortal.restarts
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    page.click(60, 40)
    page.click(20, 70, button="right")
    expect(page.trouble).to_contain_text("Your 2 clicks wait")
    page.keep("6-server-away")
    page.expect_clicks("Object 1", 3)
    expect(page.trouble).to_be_hidden()
    assert mortal.restarts == restarts + 1
    session.click(60, 40)
    session.click(20, 70, positive=False)
    np.testing.assert_array_equal(page.mask() > 0, session.mask() > 0)


def test_the_page_waits_for_a_gateway_that_ended(
    open_page: OpenPage, mortal: EmbeddedServer, photo: Path
) -> None:
    with Gateway(mortal.grpc_url, port=0) as first:
        page = open_page(first.url)
        page.open(photo)
        port = first.port
    page.click(40, 40)
    expect(page.trouble).to_contain_text("Start it again with “ois demo”")
    with Gateway(mortal.grpc_url, port=port):
        page.expect_clicks("Object 1", 1)
        expect(page.trouble).to_be_hidden()


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
    expect(page.trouble).to_contain_text("large.tif has 65 MiB; the demo takes up to 64")
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


def test_a_reload_keeps_the_work_and_tabs_are_independent(
    open_page: OpenPage, photo: Path, session: Session
) -> None:
    page = open_page()
    page.open(photo)
    page.click(40, 40)
    page.expect_clicks("Object 1", 1)
    page.page.reload()
    page.wait_ready()
    first = session.click(40, 40)
    np.testing.assert_array_equal(page.mask() > 0, first > 0)
    other = DemoPage(page.page.context.new_page(), page.url).load()
    expect(other.page.locator("#welcome")).to_be_visible()
    other.open(photo)
    other.click(80, 40)
    other.expect_clicks("Object 1", 1)
    page.click(50, 50)
    page.expect_clicks("Object 1", 2)
    second = session.click(50, 50)
    np.testing.assert_array_equal(page.mask() > 0, second > 0)
    assert other.complaints == []


def test_the_keyboard_is_enough(open_page: OpenPage, photo: Path, session: Session) -> None:
    page = open_page(color_scheme="dark")
    page.open(photo)
    keys = page.page.keyboard
    page.page.locator("#hover").focus()
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
