"""Measures the page of `ois demo` with a photograph of 24 megapixels, in Chromium or Firefox.

    PYTHONPATH=tests python -m support.demo.measure -o benchmarks/results/page-24mp-cpu.json

Opens the photograph, clicks, paints, moves and zooms it, with real engines in this process. Times
are wall times in the browser: from the action to the page's answer, and between frames while the
photograph moves. Without a GPU the browser draws on the CPU, which is the slow case.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ois_benchmarks.machine import describe
from ois_benchmarks.results import write_result
from ois_cli.demo.gateway.server import Gateway
from ois_cli.demo.samples import PHOTOGRAPHS
from support.demo.page import DemoPage, chromium, firefox, open_browser, open_firefox

WIDTH, HEIGHT = 6000, 4000
_MOVES = 40
_FRAMES = """(async () => {
    const times = [];
    let last = performance.now();
    await new Promise((resolve) => {
        const step = (now) => {
            times.push(now - last);
            last = now;
            if (window.measuring) requestAnimationFrame(step);
            else resolve();
        };
        window.measuring = true;
        requestAnimationFrame(step);
    });
    return times.slice(1);
})()"""


def measure(page: DemoPage, photograph: Path, repeats: int) -> dict[str, Any]:
    """Use the page as a person would -> milliseconds by action."""
    page.page.locator("#hover").uncheck()
    found: dict[str, Any] = {"open_ms": timed(lambda: page.open(photograph))}
    clicks, strokes = [], []
    for number in range(1, repeats + 1):
        x = 2400 + 100 * number
        clicks.append(
            timed(lambda x=x, n=number: (page.click(x, 2000), page.expect_clicks("Object 1", n)))
        )
    page.press("p")
    for number in range(repeats):
        page.drag((1000, 1000 + 300 * number), (3000, 1500 + 300 * number))
        strokes.append(timed(lambda: page.page.get_by_text("after painting").wait_for()))
        page.press("p")  # the status line is another one again
    page.press("c")
    found |= {"click_ms": float(np.median(clicks)), "stroke_ms": float(np.median(strokes))}
    for name, zoom in (("fitted", "0"), ("zoomed", "+")):
        page.press(*[zoom] * 4)
        found[f"frame_{name}_ms"] = moving(page)
    return found


def timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1e3


def moving(page: DemoPage) -> dict[str, float]:
    """Milliseconds between frames while the mouse moves the photograph."""
    page.page.evaluate(f"window.frames_ = {_FRAMES}; 0")
    mouse, (x, y) = page.page.mouse, page.place(3000, 2000)
    mouse.move(x, y)
    mouse.down()
    for step in range(_MOVES):
        mouse.move(x + 3 * step, y + step)
    mouse.up()
    times = page.page.evaluate("(window.measuring = false, window.frames_)")
    return {
        "median": float(np.median(times)),
        "p95": float(np.quantile(times, 0.95)),
        "frames": len(times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--engines", default="engines/ois-photo-cpu")
    parser.add_argument("--browser", choices=("chromium", "firefox"), default="chromium")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    program = chromium() if given.browser == "chromium" else firefox()
    if program is None:
        parser.error(f"{given.browser} is not installed")
    opener = open_browser if given.browser == "chromium" else open_firefox
    with (
        tempfile.TemporaryDirectory() as folder,
        Gateway(f"local:{given.engines}", port=0) as gateway,
        opener(program) as browser,
    ):
        photograph = Path(folder) / "24mp.jpg"
        with Image.open(PHOTOGRAPHS[-1].path) as image:
            image.convert("RGB").resize((WIDTH, HEIGHT)).save(photograph, quality=92)
        context = browser.new_context(viewport={"width": 1366, "height": 768})
        page = DemoPage(context.new_page(), gateway.url).load()
        found = measure(page, photograph, given.repeats)
        version = browser.version
    document = {
        "benchmark": "page",
        "what": "the page of ois demo with a photograph of 6000 x 4000 pixels, 1366 x 768 window",
        "engines": Path(given.engines).name,
        "browser": f"{given.browser} {version}",
        "repeats": given.repeats,
        **found,
        "machine": describe(),
    }
    print(document)
    if given.output:
        write_result(given.output, document)


if __name__ == "__main__":
    main()
