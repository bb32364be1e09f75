"""Drives the real napari with our plugin. Runs in napari's environment, on an X server.

A scenario of a person with a mouse; prints what the window showed as one line of JSON.

    python napari_clicks.py SERVER SCREENSHOT
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import napari  # type: ignore[import-not-found]
import numpy as np
from qtpy.QtCore import QPoint, Qt  # type: ignore[import-not-found]
from qtpy.QtTest import QTest  # type: ignore[import-not-found]
from qtpy.QtWidgets import QApplication  # type: ignore[import-not-found]

PATIENCE_S = 60.0
PIXELS = np.random.default_rng(8).integers(0, 256, (120, 160, 3), dtype=np.uint8)
STACK = np.random.default_rng(9).integers(0, 4000, (3, 120, 160), dtype=np.uint16)


class Person:
    def __init__(self, server: str) -> None:
        self.viewer = napari.Viewer(show=True)
        self.viewer.add_image(PIXELS, name="photo")
        _, self.form = self.viewer.window.add_plugin_dock_widget("ois-deploy", "Click to segment")
        self.form.server_box.value = server
        self.said: list[str] = []
        napari.utils.notifications.notification_manager.notification_ready.connect(
            lambda notice: self.said.append(str(notice.message))
        )
        self.canvas = self.viewer.window._qt_viewer.canvas
        self.viewer.window.resize(1300, 900)
        self.settle(lambda: min(self.canvas.native.width(), self.canvas.native.height()) > 200)
        self.viewer.reset_view()
        self.settle()

    def settle(self, true: Callable[[], object] = lambda: True) -> None:
        until = time.monotonic() + PATIENCE_S
        quiet = 0
        while quiet < 5:
            QApplication.processEvents()
            time.sleep(0.01)
            quiet = quiet + 1 if true() and not self.form.busy else 0
            if time.monotonic() > until:
                raise TimeoutError(self.form.status_label.value)

    def place(self, x: float, y: float) -> QPoint:
        """A pixel of the picture -> a place on the canvas, by napari's own camera."""
        view = self.canvas.view
        at = (view.transform * view.scene.transform).map([x, y])[:2]
        return QPoint(round(at[0]), round(at[1]))

    def click(
        self, x: float, y: float, button: Any = Qt.LeftButton, key: Any = Qt.NoModifier
    ) -> None:
        at = self.place(x, y)
        QTest.mouseMove(self.canvas.native, at)
        QTest.mouseClick(self.canvas.native, button, key, at)
        self.settle()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        native = self.canvas.native
        QTest.mousePress(native, Qt.LeftButton, Qt.NoModifier, self.place(*start))
        for share in (0.3, 0.6, 1.0):
            x, y = (a + share * (b - a) for a, b in zip(start, end, strict=True))
            QTest.mouseMove(native, self.place(x, y))
            QApplication.processEvents()
        QTest.mouseRelease(native, Qt.LeftButton, Qt.NoModifier, self.place(*end))
        self.settle()

    def press(self, key: str) -> None:
        QTest.keyClick(self.canvas.native, key)
        self.settle()

    @property
    def labels(self) -> Any:
        return self.form.labels_box.value

    def look(self) -> dict[str, Any]:
        """Every label's pixels as (row, column), and the clicks that are shown."""
        data = self.labels.data
        return {
            "objects": {
                int(label): np.argwhere(data == label).tolist()
                for label in np.unique(data)
                if label
            },
            "clicks": self.viewer.layers["clicks"].data.tolist(),
            "green": (self.viewer.layers["clicks"].face_color[:, 1] > 0.5).tolist(),
            "status": self.form.status_label.value,
            "layers": [layer.name for layer in self.viewer.layers],
        }


def scenario(server: str, screenshot: str) -> dict[str, Any]:
    person = Person(server)
    seen: dict[str, Any] = {}
    person.click(80, 60)
    seen["one click"] = person.look()
    person.click(5, 5, Qt.RightButton)
    seen["a right click"] = person.look()
    person.press("U")
    seen["undone"] = person.look()
    person.press("R")
    seen["done again"] = person.look()
    person.press("N")
    person.click(30, 90)
    person.click(33, 90, key=Qt.AltModifier)
    seen["a second object"] = person.look()
    person.viewer.window.screenshot(screenshot, canvas_only=False, flash=False)

    center = person.viewer.camera.center
    person.drag((80, 60), (90, 65))
    seen["a drag moves the picture"] = bool(person.viewer.camera.center != center)
    seen["after a drag"] = person.look()
    person.viewer.reset_view()
    person.settle()

    person.labels.selected_label = 0
    person.click(80, 60)
    person.labels.selected_label = 9
    person.form.server_box.value = "grpc://127.0.0.1:1"
    person.click(80, 60)
    seen["errors"] = list(person.said)
    seen["after errors"] = person.look()

    # A label of another plugin is corrected, on one plane of a stack.
    person.form.server_box.value = server
    person.viewer.layers.clear()
    person.viewer.add_image(STACK, name="stack", contrast_limits=(0, 4000))
    given = np.zeros(STACK.shape, dtype=np.uint16)
    given[1, 40:60, 40:60] = 5
    person.viewer.add_labels(given, name="given").selected_label = 5
    person.form.reset_choices()
    person.form.image_box.value = person.viewer.layers["stack"]
    person.form.labels_box.value = person.viewer.layers["given"]
    person.viewer.dims.set_current_step(0, 1)
    person.settle()
    person.click(50, 50)
    seen["a plane of a stack"] = person.look()
    person.viewer.dims.ndisplay = 3
    person.said.clear()
    person.form.click((1.0, 50.0, 50.0), True)
    person.settle()
    seen["in 3D"] = list(person.said)
    person.viewer.close()
    return seen


if __name__ == "__main__":
    print(json.dumps(scenario(*sys.argv[1:])), flush=True)
