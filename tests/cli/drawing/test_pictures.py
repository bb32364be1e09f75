"""Pictures show the values of the arrays: colours, contours, clicks, depth and order."""

from __future__ import annotations

import numpy as np
import pytest

from ois_cli.drawing.colours import GREEN, RED, VIRIDIS, colour_map, object_colour
from ois_cli.drawing.pictures import (
    attention_picture,
    depth_picture,
    draw_clicks,
    order_picture,
    overlay,
)
from ois_cli.drawing.sheet import Panel, sheet
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput

GREY = np.full((60, 80, 3), 128, dtype=np.uint8)


def test_lightness_of_the_colour_map_rises_evenly() -> None:
    linear = (VIRIDIS / 255) ** 2.2
    lightness = np.cbrt(linear @ np.array([0.2126, 0.7152, 0.0722]))
    steps = np.diff(lightness[::16])
    assert (steps > 0).all()
    assert steps.max() < 2.5 * steps.min()


def test_the_colour_map_clips_and_accepts_nan() -> None:
    shown = colour_map(np.array([[-1.0, 0.0, 1.0, 2.0, np.nan]]))
    assert (shown[0, 0] == VIRIDIS[0]).all()
    assert (shown[0, 1] == VIRIDIS[0]).all()
    assert (shown[0, 2] == VIRIDIS[255]).all()
    assert (shown[0, 3] == VIRIDIS[255]).all()
    assert (shown[0, 4] == VIRIDIS[0]).all()


def test_an_overlay_changes_only_the_object_and_its_edge() -> None:
    labels = np.zeros((60, 80), dtype=np.uint8)
    labels[10:30, 20:50] = 2
    before = GREY.copy()
    shown = overlay(GREY, labels)
    colour = np.array(object_colour(2))
    assert (shown[labels == 0] == 128).all()
    assert (shown[10, 20:50] == colour).all()
    assert np.abs(shown[20, 35] - (128 * 0.55 + colour * 0.45)).max() <= 0.5
    assert (before == GREY).all()


def test_there_is_no_contour_along_the_image_border() -> None:
    shown = overlay(GREY, np.ones((60, 80), dtype=np.uint8))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize(("positive", "colour"), [(True, GREEN), (False, RED)])
def test_a_click_is_drawn_at_its_pixel(positive: bool, colour: tuple[int, int, int]) -> None:
    image = np.full((600, 800, 3), 128, dtype=np.uint8)
    shown = draw_clicks(image, [Click(400, 300, positive)])
    changed = np.argwhere((shown != image).any(axis=2))
    assert np.abs(changed.mean(axis=0) - (300, 400)).max() < 0.6
    # Radius 10: the centre and the bars are white; between the bars is the colour of the sign.
    assert (shown[300, 400] == 255).all()
    assert (shown[300, 403] == 255).all()
    assert (shown[296, 396] == colour).all()
    assert (shown[297, 400] == ((255, 255, 255) if positive else colour)).all()
    marker = shown[290:311, 390:411]
    assert (marker == marker[::-1]).all()
    assert (marker == marker[:, ::-1]).all()


def test_clicks_in_corners_and_on_one_pixel_images_are_drawn() -> None:
    for shape in ((60, 80, 3), (1, 1, 3)):
        image = np.zeros(shape, dtype=np.uint8)
        assert draw_clicks(image, [Click(0, 0), Click(shape[1] - 1, shape[0] - 1)]).shape == shape


def test_near_is_bright_and_far_is_dark() -> None:
    depth = np.array([[0.0, 1.0]], dtype=np.float32)
    shown = depth_picture(depth, (2, 1))
    assert (shown[0, 0] == VIRIDIS[255]).all()
    assert (shown[0, 1] == VIRIDIS[0]).all()


def test_the_clicked_depth_is_bright_in_an_order_map() -> None:
    order = np.array([[0.0, 0.5], [1.0, 0.0]], dtype=np.float32)
    shown = order_picture(order, (2, 2))
    assert (shown[0, 0] == VIRIDIS[255]).all()
    assert (shown[1, 0] == VIRIDIS[0]).all()


def test_pictures_of_maps_have_the_size_of_the_image() -> None:
    assert depth_picture(np.zeros((14, 28), dtype=np.float32), (80, 60)).shape == (60, 80, 3)


def test_a_sheet_shows_every_panel_in_reading_order() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    panels = [
        Panel(f"panel {i}", np.full((20, 40, 3), colour, dtype=np.uint8))
        for i, colour in enumerate(colours)
    ]
    page = sheet(panels, columns=2, panel_width=100, footer="made by a test")
    places = [np.argwhere((page == colour).all(axis=2)) for colour in colours]
    assert [len(place) for place in places] == [100 * 50] * 3
    (top0, left0), (top1, left1), (top2, left2) = (place.min(axis=0) for place in places)
    assert top0 == top1 < top2
    assert left0 == left2 < left1


def test_a_sheet_without_a_panel_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="0 panels"):
        sheet([], columns=2, panel_width=100)


def test_attention_is_coloured_on_the_scale_that_is_given() -> None:
    weights = np.array([[0.0, 0.5], [0.5, 2.0]], dtype=np.float32)
    shown = attention_picture(GREY, weights, top=0.5)
    assert shown.shape == GREY.shape
    low, high = (np.rint(VIRIDIS[i] * 0.7 + 128 * 0.3) for i in (0, 255))
    assert np.abs(shown[0, 0].astype(float) - low).max() <= 1
    assert np.abs(shown[-1, -1].astype(float) - high).max() <= 1
    assert np.abs(shown[-1, 0].astype(float) - high).max() <= 1  # 0.5 and 2.0 look the same
    nothing = attention_picture(GREY, np.zeros((2, 2), dtype=np.float32), top=0.0)
    assert (nothing == shown[0, 0]).all()
