"""The widget's page in a real browser, joined to the real widget.

The browser gets what anywidget documents for `render`: an element, and a model with get, on, off
and send. The model's two ends are joined by Playwright instead of by a notebook's kernel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ois_client.notebook
from ois_client.sessions.client import Client

pytest.importorskip("anywidget", reason="anywidget is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Page, expect

from ois_client.notebook.widget import ClickWidget
from support.demo.page import chromium, open_browser

PROGRAM = chromium()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here: apt-get install chromium"
)

FILES = Path(ois_client.notebook.__file__).parent
ADDRESS = "http://widget.test/"
TRAITS = ("image", "overlay", "size", "objects", "chosen", "status", "answered")
HOST = """
<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="widget.css">
<div id="place" style="width: 224px"></div>
<script type="module">
  import widget from "./widget.js";
  const state = {}, listeners = {};
  const read = ([name, value]) =>
    [name, value?.bytes === undefined ? value : new DataView(Uint8Array.from(value.bytes).buffer)];
  const take = (values) =>
    Object.assign(state, Object.fromEntries(Object.entries(values).map(read)));
  const model = {
    get: (name) => state[name],
    on: (name, react) => (listeners[name] ??= []).push(react),
    off: (name, react) => (listeners[name] = listeners[name].filter((one) => one !== react)),
    send: async (message) => {
      const changed = await window.kernel(JSON.stringify(message));
      take(changed);
      for (const name of Object.keys(changed))
        (listeners[`change:${name}`] ?? []).forEach((react) => react());
    },
  };
  take(await window.kernel(""));
  window.leave = widget.render({ model, el: document.getElementById("place") });
  window.listeners = listeners;
</script>
"""


class Joined:
    """A widget and a page that shows it. sent: the messages of the page."""

    def __init__(self, page: Page, widget: ClickWidget) -> None:
        self.page, self.widget = page, widget
        self.sent: list[dict[str, Any]] = []
        self.known: dict[str, Any] = {}
        page.expose_function("kernel", self._answer)
        page.route(f"{ADDRESS}**", self._serve)
        page.goto(ADDRESS)
        expect(self.status).to_have_text("Click on an object: left adds, right removes")

    def _answer(self, text: str) -> dict[str, Any]:
        if text:
            self.sent.append(json.loads(text))
            self.widget._handle_custom_msg(self.sent[-1], [])
        values = {name: getattr(self.widget, name) for name in TRAITS}
        changed = {k: v for k, v in values.items() if k not in self.known or self.known[k] != v}
        self.known = values
        return {k: {"bytes": list(v)} if isinstance(v, bytes) else v for k, v in changed.items()}

    def _serve(self, route: Any) -> None:
        name = route.request.url.removeprefix(ADDRESS)
        if name:
            route.fulfill(path=FILES / name)
        else:
            route.fulfill(body=HOST, content_type="text/html")

    @property
    def status(self) -> Any:
        return self.page.locator(".status")

    def expect(self, text: str) -> None:
        """Wait until the status line contains the text."""
        expect(self.status).to_contain_text(text)


@pytest.fixture
def joined(client: Client) -> Iterator[Joined]:
    assert PROGRAM is not None
    widget = ClickWidget(client.open(np.full((84, 112, 3), 100, dtype=np.uint8)))
    with open_browser(PROGRAM) as browser:
        page = browser.new_page()
        yield Joined(page, widget)


def test_a_person_clicks_undoes_and_starts_another_object(joined: Joined) -> None:
    page, widget = joined.page, joined.widget
    canvas = page.locator("canvas")
    canvas.click(position={"x": 81, "y": 81})  # shown at 112 pixels, or as wide as the page allows
    joined.expect("after 1 click")
    sent = joined.sent[0]
    box = canvas.bounding_box()
    assert box is not None
    assert sent["x"] == pytest.approx(81 / box["width"] * 112 - 0.5, abs=0.6)
    assert sent["positive"] is True
    mask = widget.session.mask(0)
    assert mask.any()
    inside = np.argwhere(mask)[0]
    page.wait_for_function(
        "([x, y]) => document.querySelector('canvas').getContext('2d')"
        ".getImageData(x, y, 1, 1).data[2] > 110",
        arg=[int(inside[1]), int(inside[0])],
    )
    canvas.click(position={"x": 4, "y": 4}, button="right")
    joined.expect("after 2 clicks")
    assert joined.sent[1]["positive"] is False
    page.keyboard.press("u")
    joined.expect("undone")
    assert len(widget.session.clicks(0)) == 1
    page.keyboard.press("n")
    joined.expect("new object")
    expect(page.locator("button.object")).to_have_count(2)
    expect(page.locator("button.object").nth(1)).to_have_attribute("aria-pressed", "true")
    page.locator("button.object").first.click()
    joined.expect("clicks go to object 0")
    expect(page.locator(".ois-click")).not_to_have_class("ois-click waiting")


def test_a_closed_view_listens_no_longer(joined: Joined) -> None:
    left = joined.page.evaluate(
        "() => { window.leave(); return Object.values(window.listeners).flat().length; }"
    )
    assert left == 0
