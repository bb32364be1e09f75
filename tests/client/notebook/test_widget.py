"""The notebook widget: what the page sends changes the session, and the page sees the result."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ois_client.sessions.client import Client

pytest.importorskip("anywidget", reason="anywidget is not installed")

from ois_client.formats.colours import OBJECT_COLOURS
from ois_client.notebook.widget import SHOWN, ClickWidget


@pytest.fixture
def widget(client: Client) -> ClickWidget:
    pixels = np.random.default_rng(0).integers(0, 256, (84, 112, 3), dtype=np.uint8)
    return ClickWidget(client.open(pixels))


def tell(widget: ClickWidget, message: Any) -> None:
    """As the page does."""
    widget._handle_custom_msg(message, [])


def click(widget: ClickWidget, x: float, y: float, positive: bool = True) -> None:
    tell(widget, {"kind": "click", "x": x, "y": y, "positive": positive})


def overlay(widget: ClickWidget) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(widget.overlay)))


def test_it_shows_the_image_and_no_mask(widget: ClickWidget) -> None:
    assert Image.open(io.BytesIO(widget.image)).size == (112, 84)
    assert widget.size == [112, 84]
    assert not overlay(widget).any()
    assert widget.objects == [{"id": 0, "colour": "#009eff", "share": 0.0, "clicks": []}]


def test_clicks_refine_the_chosen_object(widget: ClickWidget) -> None:
    click(widget, 40.5, 40.5)
    mask = widget.session.mask(0)
    assert mask.any()
    shown = overlay(widget)
    np.testing.assert_array_equal(shown[..., 3] > 0, mask > 0)
    assert tuple(shown[mask > 0][0][:3]) == OBJECT_COLOURS[0]
    assert widget.objects[0]["clicks"] == [[40.5, 40.5, True]]
    assert widget.status.endswith("of the image after 1 click")
    click(widget, 5, 5, positive=False)
    assert widget.status.endswith("after 2 clicks")
    assert widget.session.mask(0).sum() < mask.sum()
    assert widget.answered == 2


def test_undo_redo_and_further_objects(widget: ClickWidget) -> None:
    click(widget, 40.5, 40.5)
    first = widget.session.mask(0)
    tell(widget, {"kind": "undo"})
    assert not overlay(widget).any()
    tell(widget, {"kind": "redo"})
    np.testing.assert_array_equal(overlay(widget)[..., 3] > 0, first > 0)
    tell(widget, {"kind": "new"})
    assert widget.chosen == 1
    click(widget, 80.5, 40.5)
    assert [item["clicks"] for item in widget.objects] == [
        [[40.5, 40.5, True]],
        [[80.5, 40.5, True]],
    ]
    tell(widget, {"kind": "choose", "object": 0})
    click(widget, 30, 30)
    assert len(widget.session.clicks(0)) == 2


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"kind": "click", "x": 400, "y": 10, "positive": True}, "outside"),
        ({"kind": "click", "x": "a", "y": 10, "positive": True}, "two numbers"),
        ({"kind": "click", "x": 4, "y": 10}, "two numbers"),
        ({"kind": "choose", "object": 7}, "expected one of"),
        ({"kind": "explode"}, "'explode'"),
        (["click"], "None"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(
    widget: ClickWidget, message: Any, said: str
) -> None:
    click(widget, 40.5, 40.5)
    before = widget.session.mask(0)
    tell(widget, message)
    assert said in widget.status
    assert widget.answered == 2  # the page does not wait for ever
    np.testing.assert_array_equal(widget.session.mask(0), before)


def test_changes_from_python_are_shown(widget: ClickWidget) -> None:
    mask = widget.session.click(40.5, 40.5)
    assert not overlay(widget).any()
    widget.refresh()
    np.testing.assert_array_equal(overlay(widget)[..., 3] > 0, mask > 0)


def test_a_large_image_is_shown_smaller_and_clicked_in_its_own_pixels(client: Client) -> None:
    widget = ClickWidget(client.open(np.zeros((1500, 2000, 3), dtype=np.uint8)))
    assert Image.open(io.BytesIO(widget.image)).size == (SHOWN, 960)
    click(widget, 1999, 1499)
    assert widget.session.clicks(0)[0].x == 1999
    share = (overlay(widget)[..., 3] > 0).mean()
    assert share == pytest.approx(widget.session.mask(0).mean(), rel=0.02)


def test_the_files_of_the_page_are_in_the_package() -> None:
    import ois_client.notebook

    folder = Path(ois_client.notebook.__file__).parent
    assert {"widget.js", "widget.css"} <= {path.name for path in folder.iterdir()}
