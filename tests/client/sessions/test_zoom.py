"""Zoom: later clicks on a small object are about a window, and the session does not show it."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ois_client import AsyncClient, Client
from ois_client.contract.clicks import Click
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import DeadlineExceeded, InvalidClick, InvalidImage
from ois_client.contract.images import load_image
from ois_client.sessions import zoom
from ois_client.sessions.zoom import Window, choose_window
from support.disks import Disks, disks

WIDTH, HEIGHT = 450, 350
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
#: On a small object; the fourth is the first in a window.
CLICKS = [
    Click(150, 100),
    Click(170, 110),
    Click(160, 130, False),
    Click(190, 105),
    Click(175, 90),
]


@pytest.fixture
def server():
    return Disks()


@pytest.fixture
def client(server):
    with Client(server) as made:
        yield made


def play(session, clicks=CLICKS, **options):
    return [session.click(one.x, one.y, one.positive, **options) for one in clicks]


def expected(clicks):
    return disks(clicks, WIDTH, HEIGHT)


def test_the_fourth_click_is_about_a_window_and_the_mask_about_the_image(server, client):
    session = client.open(PIXELS, zoom=True)
    masks = play(session, CLICKS[:4])
    np.testing.assert_array_equal(masks[3], expected(CLICKS[:4]))
    np.testing.assert_array_equal(session.mask(), masks[3])
    np.testing.assert_array_equal(session.last_reply.masks[0], masks[3])
    whole = coverage_of_mask(masks[3], session.geometry)
    np.testing.assert_array_equal(session.coverage(), whole)
    assert session.clicks() == tuple(CLICKS[:4])
    assert {one.digest for one in server.requests[:3]} == {session.picture.digest}

    window, sent = session.window(), server.requests[3]
    part = PIXELS[window.top : window.bottom, window.left : window.right]
    picture = load_image(np.ascontiguousarray(part))
    assert sent.digest == picture.digest
    moved = [[click.x - window.left, click.y - window.top] for click in CLICKS[:4]]
    assert sent.points.tolist() == [moved]
    before = masks[2][window.top : window.bottom, window.left : window.right]
    frame = client.info.fit(picture.width, picture.height)
    np.testing.assert_array_equal(sent.coverage[0], coverage_of_mask(before, frame))
    assert sent.has_previous.tolist() == [True]


def test_a_window_is_encoded_once_with_its_first_click(server, client):
    session = client.open(PIXELS, zoom=True)
    play(session)
    assert server.encodes == 2  # the image and one window
    assert len(server.requests) == len(CLICKS)  # no click was sent in vain
    assert session.window() is not None


def test_without_zoom_every_click_is_about_the_image(server, client):
    session = client.open(PIXELS)
    play(session)
    assert {one.digest for one in server.requests} == {session.picture.digest}
    assert session.window() is None


@pytest.mark.parametrize("wanted", ["want_depth", "want_logits", "want_order"])
def test_a_click_that_wants_maps_is_about_the_image(server, client, wanted):
    session = client.open(PIXELS, zoom=True)
    play(session, CLICKS[:4])
    play(session, CLICKS[4:], **{wanted: True})
    assert server.requests[4].digest == session.picture.digest
    assert session.window() is None
    np.testing.assert_array_equal(session.mask(), expected(CLICKS))


def test_clicks_on_several_objects_at_once_are_about_the_image(server, client):
    session = client.open(PIXELS, zoom=True)
    play(session, CLICKS[:4])
    other = session.new_object()
    session.click_many({0: CLICKS[4], other: Click(400, 300)})
    assert server.requests[-1].digest == session.picture.digest
    np.testing.assert_array_equal(session.mask(0), expected(CLICKS))


def test_undo_and_redo_take_the_window_with_them(server, client):
    session = client.open(PIXELS, zoom=True)
    play(session, CLICKS[:4])
    window = session.window()
    session.undo()
    assert session.window() is None
    session.redo()
    assert session.window() == window
    play(session, CLICKS[4:])
    assert server.encodes == 2


def test_a_click_far_away_leaves_the_window(client):
    session = client.open(PIXELS, zoom=True)
    play(session, [*CLICKS[:4], Click(10, 340, False)])
    assert session.window() is None
    np.testing.assert_array_equal(session.mask(), expected([*CLICKS[:4], Click(10, 340, False)]))


def test_a_server_that_lost_the_window_gets_it_again(server, client):
    session = client.open(PIXELS, zoom=True)
    play(session, CLICKS[:4])
    server.images.clear()
    play(session, CLICKS[4:])
    np.testing.assert_array_equal(session.mask(), expected(CLICKS))
    assert session.window() is not None


def test_a_failed_click_in_a_window_changes_nothing(server, client):
    session = client.open(PIXELS, zoom=True)
    play(session, CLICKS[:3])
    server.fail_next = [DeadlineExceeded("late")]
    with pytest.raises(DeadlineExceeded):
        play(session, CLICKS[3:4])
    assert session.window() is None
    np.testing.assert_array_equal(session.mask(), expected(CLICKS[:3]))
    play(session, CLICKS[3:])
    np.testing.assert_array_equal(session.mask(), expected(CLICKS))


def test_a_click_outside_the_image_is_refused_as_without_zoom(server, client):
    session = client.open(PIXELS, zoom=True)
    play(session, CLICKS[:4])
    with pytest.raises(InvalidClick):
        session.click(WIDTH + 5, 10)
    assert len(server.requests) == 4


def test_a_picture_whose_pixels_are_damaged_is_an_error_of_the_click(client, monkeypatch):
    session = client.open(PIXELS, zoom=True)
    play(session, CLICKS[:3])

    def damaged(_):
        raise InvalidImage("truncated")

    monkeypatch.setattr(type(session.picture), "pixels", damaged)
    with pytest.raises(InvalidImage):
        play(session, CLICKS[3:4])
    assert len(session.clicks()) == 3


def test_the_coarse_mask_is_about_the_image_too(server, client):
    session = client.open(PIXELS, zoom=True)
    play(session, CLICKS[:4])
    pending = session._state.begin({0: CLICKS[4]})
    assert pending.view is not None
    shown = session._state.coarse(pending, server.click(pending.request))
    np.testing.assert_array_equal(shown.masks[0], expected(CLICKS))


def test_async_sessions_zoom_alike(server):
    async def scenario():
        async with AsyncClient(server) as client:
            session = await client.open(PIXELS, zoom=True)
            for one in CLICKS:
                await session.click(one.x, one.y, one.positive)
            return session.window(), session.mask()

    window, mask = asyncio.run(scenario())
    np.testing.assert_array_equal(mask, expected(CLICKS))
    assert window is not None
    assert server.encodes == 2


# -- windows --------------------------------------------------------------------------------------

places = st.builds(Click, st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.booleans())
boxes = st.tuples(
    st.integers(0, WIDTH - 1),
    st.integers(0, HEIGHT - 1),
    st.integers(1, 200),
    st.integers(1, 200),
)


@given(boxes, st.lists(places, min_size=4, max_size=8), st.none() | boxes)
def test_a_window_holds_mask_and_clicks_and_is_small(box, clicks, present):
    left, top, across, down = box
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + down, left : left + across] = 1
    if present is not None:
        x, y, w, h = present
        present = Window(x, y, min(x + w, WIDTH), min(y + h, HEIGHT))
    window = choose_window(mask, clicks, present)
    if window is None:
        return
    assert Window(0, 0, WIDTH, HEIGHT).contains(window)
    inside = np.zeros_like(mask)
    inside[window.top : window.bottom, window.left : window.right] = 1
    assert not (mask & ~inside & 1).any()
    assert all(inside[int(click.y), int(click.x)] for click in clicks)
    assert window.area <= zoom.MOST * zoom.KEPT_AREA * mask.size


def test_there_is_no_window_before_the_fourth_click_or_without_a_mask():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert choose_window(mask, CLICKS, None) is None
    mask[100:120, 150:175] = 1
    assert choose_window(mask, CLICKS[:3], None) is None
    assert choose_window(mask, CLICKS[:4], None) is not None


def test_a_large_object_has_no_window():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[50:300, 50:350] = 1
    assert choose_window(mask, CLICKS, None) is None


def test_a_window_is_kept_until_it_is_much_too_large_or_too_small():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[100:180, 150:230] = 1
    first = choose_window(mask, CLICKS, None)
    mask[100:186, 150:236] = 1
    assert choose_window(mask, CLICKS, first) == first
    mask[100:220, 150:270] = 1
    second = choose_window(mask, CLICKS, first)
    assert second != first
    assert second.contains(Window(150, 100, 270, 220))
    mask[:] = 0
    mask[100:120, 150:175] = 1
    assert choose_window(mask, CLICKS, second).area < second.area / 2
