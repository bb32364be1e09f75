"""`ois demo` end to end: the page in Chromium, the gateway, a real Triton server and engines."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_cli.demo.gateway.frames import read_frame
from ois_client.contract.transport import Answer, ClickRequest
from ois_client.sessions.session import Session
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.segmenter import Refined, Segmenter

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect  # noqa: E402

from ois_cli.demo.gateway.server import Gateway  # noqa: E402
from support.demo.page import DemoPage, chromium  # noqa: E402
from support.server.calls import picture  # noqa: E402
from support.tiny_engines import write_region_engines  # noqa: E402

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium here: apt-get install chromium"
)

OpenPage = Callable[..., DemoPage]


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


def test_a_slow_click_shows_a_coarse_mask_first(
    open_page: OpenPage, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, answered = Segmenter.refine, threading.Event()

    def slow(self: Segmenter, state: ImageState, request: ClickRequest) -> Refined:
        if request.answer is Answer.FULL:
            assert answered.wait(30)
        return plain(self, state, request)

    monkeypatch.setattr(Segmenter, "refine", slow)
    with Gateway(f"local:{write_region_engines(tmp_path / 'engines')}", port=0) as local:
        page = open_page(local.url)
        page.open(photo)
        page.page.locator("#hover").uncheck()
        page.page.locator("#coarse").uncheck()
        page.page.locator("#coarse").check()
        page.page.mouse.move(*page.place(40, 40))
        before = page.picture()
        with page.page.expect_response("**/api/clicks"):  # the full answer is held back
            page.click(40, 40)
        page.page.wait_for_timeout(200)
        assert (page.picture() != before).any(axis=2).sum() > 5000  # the click alone: hundreds
        assert page.sizes() == ["no clicks"]
        answered.set()
        page.expect_clicks("Object 1", 1)
        assert page.mask()[40, 40]


def test_engines_without_coarse_masks_have_no_switch_for_them(open_page: OpenPage) -> None:
    expect(open_page().page.locator("#coarse-control")).to_be_hidden()


def test_the_network_s_inputs_are_shown(open_page: OpenPage, photo: Path) -> None:
    page = open_page()
    page.open(photo)
    labels = page.page.locator("#layers label")
    expect(labels).to_have_text(["Photograph", "Depth"])
    page.click(40, 40)
    page.expect_clicks("Object 1", 1)
    expect(labels).to_have_text(["Photograph", "Depth", "Order M⁺", "Patches +"])
    page.page.get_by_text("Patches +").click()
    expect(page.page.locator("#layer-text")).to_contain_text("attends to all 12 patches")
    page.click(90, 60, button="right")
    page.expect_clicks("Object 1", 2)
    expect(labels).to_have_text(
        ["Photograph", "Depth", "Order M⁺", "Order M⁻", "Patches +", "Patches −"]
    )
    expect(page.page.locator("#layer-text")).to_contain_text(
        re.compile("of 12 patches: those inside")
    )
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
    page.page.locator("#inside > summary").click()
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
    expect(page.trouble).to_contain_text("Your 2 clicks are waiting")
    page.keep("6-server-away")
    page.expect_clicks("Object 1", 3)
    expect(page.trouble).to_be_hidden()
    assert mortal.restarts == restarts + 1
    session.click(60, 40)
    session.click(20, 70, positive=False)
    np.testing.assert_array_equal(page.mask() > 0, session.mask() > 0)


def test_the_page_looks_closer_at_a_small_object(open_page: OpenPage, tmp_path: Path) -> None:
    """That the masks are right is shown in tests/cli/demo/test_gateway.py."""
    large = tmp_path / "large.jpg"
    Image.fromarray(picture(60_000, 1200, 900).pixels()).save(large)
    page = open_page()
    page.open(large)
    windows, areas = [], []
    for n in range(5):  # the negative ones make the disk smaller
        with page.page.expect_response("**/api/clicks") as answered:
            page.click(600, 450, button="left" if n == 0 else "right")
        page.expect_clicks("Object 1", n + 1)
        windows.append(read_frame(answered.value.body())[0]["window"])
        areas.append(np.count_nonzero(page.mask()))
    assert windows[:3] == [None] * 3
    left, top, right, bottom = windows[-1]
    assert 0 < areas[-1] < areas[-2] / 2  # the network sees the window larger
    assert np.count_nonzero(page.mask()[top:bottom, left:right]) == areas[-1]
    page.keep("8-look-closer")
    page.page.get_by_label("Look closer").uncheck()
    with page.page.expect_response("**/api/clicks") as answered:
        page.click(610, 450, button="right")
    assert read_frame(answered.value.body())[0]["window"] is None


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
