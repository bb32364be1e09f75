"""Drives the real X-AnyLabeling. Runs in X-AnyLabeling's environment, without a screen.

Reads one JSON command per line and answers each with one line of JSON:

    {"do": "connect", "url": ..., "key": ...}      choose the remote server as a person would
    {"do": "click", "x": ..., "y": ..., "positive": ...}
    {"do": "finish", "label": ...}                 name the object and keep it
    {"do": "save"}                                 write the label file -> its content
    {"do": "look"}                                 what the window shows now

    python x_anylabeling.py PHOTO WORK_FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anylabeling import app as program  # type: ignore[import-not-found]
from PyQt6 import QtCore, QtTest, QtWidgets  # type: ignore[import-not-found]

PATIENCE_S = 60.0


class Window:
    def __init__(self) -> None:
        main = next(
            w for w in QtWidgets.QApplication.topLevelWidgets() if hasattr(w, "labeling_widget")
        )
        self.view = main.labeling_widget.view
        self.panel = self.view.auto_labeling_widget
        self.manager = self.panel.model_manager
        self.finished = 0
        self.said: list[str] = []
        self.manager.prediction_finished.connect(self._count)
        self.manager.new_model_status.connect(self.said.append)
        self.wait(lambda: self.view.canvas.pixmap is not None and self.view.image is not None)

    def _count(self) -> None:
        self.finished += 1

    def wait(self, true: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > until:
                raise TimeoutError(f"waited {PATIENCE_S} s; the window said {self.said[-3:]}")
            QtWidgets.QApplication.processEvents()
            time.sleep(0.01)

    def answer_dialog(self, fill: Callable[[Any], None]) -> None:
        """Fills in the next dialog as soon as it is open."""

        def look() -> None:
            dialog = QtWidgets.QApplication.activeModalWidget()
            if dialog is None:
                QtCore.QTimer.singleShot(20, look)
                return
            fill(dialog)
            dialog.accept()

        QtCore.QTimer.singleShot(20, look)

    def connect(self, url: str, key: str = "") -> dict[str, Any]:
        if not self.panel.isVisible():
            self.view.toggle_auto_labeling_widget()
        name = next(n for n in self.panel.model_info if "remote_server" in n.lower())

        def fill(dialog: Any) -> None:
            dialog.url_input.setText(url)
            dialog.api_key_input.setText(key)

        self.answer_dialog(fill)
        before = len(self.said)
        self.panel.on_model_selected("CVHub", name)
        self.wait(lambda: any("loaded" in text.lower() for text in self.said[before:]))
        self.wait(lambda: self.panel.model_selection_button.isEnabled())
        return self.look()

    def click(self, x: float, y: float, positive: bool) -> dict[str, Any]:
        button = self.panel.button_add_point if positive else self.panel.button_remove_point
        button.click()
        canvas = self.view.canvas
        place = (QtCore.QPointF(x + 0.5, y + 0.5) + canvas.offset_to_center()) * canvas.scale
        before = self.finished
        QtTest.QTest.mouseMove(canvas, place.toPoint())
        QtTest.QTest.mouseClick(canvas, QtCore.Qt.MouseButton.LeftButton, pos=place.toPoint())
        self.wait(lambda: self.finished > before)
        for _ in range(5):  # the result is applied after that
            QtWidgets.QApplication.processEvents()
        return self.look()

    def finish(self, label: str) -> dict[str, Any]:
        self.answer_dialog(lambda dialog: dialog.edit.setText(label))
        self.panel.button_finish_object.click()
        return self.look()

    def save(self) -> dict[str, Any]:
        self.view.save_file()
        written = Path(self.view.filename).with_suffix(".json")
        found: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        found.pop("imageData", None)
        return found

    def look(self) -> dict[str, Any]:
        shapes = [
            {"label": s.label, "type": s.shape_type, "points": [[p.x(), p.y()] for p in s.points]}
            for s in self.view.canvas.shapes
        ]
        buttons = {
            name: getattr(self.panel, name).isVisibleTo(self.panel)
            for name in ("button_add_point", "button_remove_point", "button_add_rect")
        }
        return {
            "shapes": shapes,
            "model": self.panel.remote_server_select_combobox.currentText(),
            "buttons": buttons,
            "status": self.panel.model_status_label.text(),
            "said": self.said[-4:],
        }


def scenario(*_: object) -> int:
    window = Window()
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(window, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    photo, folder = sys.argv[1:]
    sys.argv = [
        "xanylabeling", "--work-dir", folder, "--no-auto-update-check",
        "--logger-level", "error", "--filename", photo,
    ]  # fmt: skip
    QtWidgets.QApplication.exec = staticmethod(scenario)
    program.main()
