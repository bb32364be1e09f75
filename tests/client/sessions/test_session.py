"""A session: clicks refine objects, undo and redo need no server, failures change nothing."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from ois_client.contract.clicks import Click
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import (
    DeadlineExceeded,
    IncompatibleServer,
    InvalidClick,
    InvalidImage,
    InvalidInput,
    TooManyClicks,
    UnknownImage,
)
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import load_image
from ois_client.contract.masks import pack_mask
from ois_client.sessions.history import SessionState
from ois_client.sessions.session import Session
from support.disks import IMAGE, Disks, click, disks

A, B, C = Click(20, 20), Click(30, 20), Click(25, 20, False)


@pytest.fixture
def server():
    return Disks()


@pytest.fixture
def session(server):
    return Session(server, load_image(IMAGE))


def snapshot(session):
    return {
        obj: (session.clicks(obj), session.mask(obj).tobytes(), str(session.coverage(obj)))
        for obj in session.objects
    }


def test_every_click_sends_all_clicks_of_the_object_and_its_previous_mask(server, session):
    np.testing.assert_array_equal(click(session, A), disks([A]))
    np.testing.assert_array_equal(click(session, B), disks([A, B]))
    np.testing.assert_array_equal(click(session, C), disks([A, B, C]))
    np.testing.assert_array_equal(session.mask(), disks([A, B, C]))
    assert session.clicks() == (A, B, C)
    first, second, third = server.requests
    assert first.has_previous.tolist() == [False]
    assert not first.coverage.any()
    assert second.has_previous.tolist() == third.has_previous.tolist() == [True]
    geometry = session.geometry
    np.testing.assert_array_equal(second.coverage[0], coverage_of_mask(disks([A]), geometry))
    np.testing.assert_array_equal(third.coverage[0], coverage_of_mask(disks([A, B]), geometry))
    assert third.points.tolist() == [[[20, 20], [30, 20], [25, 20]]]
    assert third.labels.tolist() == [[1, 1, 0]]
    assert server.encodes == 1


def test_before_the_first_click_there_is_an_empty_mask(session):
    assert session.objects == (0,)
    assert session.mask().shape == (60, 80)
    assert session.mask().dtype == np.uint8
    assert not session.mask().any()
    assert session.coverage() is None
    assert session.clicks() == ()


def test_undo_and_redo_need_no_server(server, session):
    masks = [session.mask(), click(session, A), click(session, B), click(session, C)]
    for expected in masks[2::-1]:
        np.testing.assert_array_equal(session.undo(), expected)
    assert session.coverage() is None
    np.testing.assert_array_equal(session.undo(), masks[0])
    for expected in masks[1:]:
        np.testing.assert_array_equal(session.redo(), expected)
    np.testing.assert_array_equal(session.redo(), masks[3])
    assert session.clicks() == (A, B, C)
    assert len(server.requests) == 3


def test_after_undo_to_nothing_the_next_click_has_no_previous_mask(server, session):
    click(session, A)
    session.undo()
    click(session, B)
    assert server.requests[-1].has_previous.tolist() == [False]
    assert not server.requests[-1].coverage.any()
    assert server.requests[-1].points.tolist() == [[[30, 20]]]


def test_a_click_after_undo_drops_the_undone_steps(session):
    click(session, A)
    click(session, B)
    session.undo()
    click(session, C)
    assert session.clicks() == (A, C)
    np.testing.assert_array_equal(session.redo(), disks([A, C]))
    np.testing.assert_array_equal(session.undo(), disks([A]))


def test_reset_clears_the_object(server, session):
    click(session, A)
    session.reset()
    assert session.clicks() == ()
    assert not session.mask().any()
    assert not session.redo().any()
    click(session, B)
    assert server.requests[-1].has_previous.tolist() == [False]
    assert server.requests[-1].labels.tolist() == [[1]]


def test_each_object_has_its_own_history(session):
    click(session, A)
    second = session.new_object()
    assert second == 1
    click(session, B)
    click(session, C, obj=0)
    assert session.objects == (0, 1)
    assert (session.clicks(0), session.clicks(1), session.clicks()) == ((A, C), (B,), (B,))
    session.undo(0)
    np.testing.assert_array_equal(session.masks[0], disks([A]))
    np.testing.assert_array_equal(session.masks[1], disks([B]))


def test_many_objects_are_clicked_in_one_request(server, session):
    click(session, A)
    second = session.new_object()
    masks = session.click_many({second: B, 0: C})
    assert list(masks) == [1, 0]
    np.testing.assert_array_equal(masks[1], disks([B]))
    np.testing.assert_array_equal(masks[0], disks([A, C]))
    np.testing.assert_array_equal(session.mask(0), disks([A, C]))
    request = server.requests[-1]
    assert request.labels.tolist() == [[1, -1], [1, 0]]
    assert request.has_previous.tolist() == [False, True]


def test_the_next_click_refines_a_mask_set_by_the_caller(server, session):
    own = disks([B])
    session.start_from(own)
    np.testing.assert_array_equal(session.mask(), own)
    click(session, A)
    assert server.requests[-1].has_previous.tolist() == [True]
    expected = coverage_of_mask(own, session.geometry)
    np.testing.assert_array_equal(server.requests[-1].coverage[0], expected)
    session.undo()
    np.testing.assert_array_equal(session.mask(), own)
    assert not session.undo().any()
    for wrong in (own.T, own * 255, own.astype(float)):
        with pytest.raises(InvalidInput, match="got a mask"):
            session.start_from(wrong)


def test_an_image_the_server_lost_is_sent_once_more_and_the_click_repeated(server, session):
    click(session, A)
    server.images.clear()
    np.testing.assert_array_equal(click(session, B), disks([A, B]))
    assert server.encodes == 2
    assert session.clicks() == (A, B)
    first, lost, repeated = server.requests
    assert first is not lost
    assert lost is repeated  # the image was sent with it, so nothing can be evicted in between


def test_a_server_that_loses_even_an_image_just_sent_is_an_error_not_a_loop(server, session):
    before = snapshot(session)
    server.fail_next = [UnknownImage("gone"), UnknownImage("gone again")]
    with pytest.raises(UnknownImage, match="gone again"):
        click(session, A)
    assert snapshot(session) == before
    assert len(server.requests) == 2


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), KeyboardInterrupt()])
def test_a_failed_or_cancelled_click_leaves_the_session_as_it_was(server, session, error):
    click(session, A)
    session.new_object()
    before, reply = snapshot(session), session.last_reply
    server.fail_next = [error]
    with pytest.raises(type(error)):
        session.click_many({0: B, 1: C})
    assert snapshot(session) == before
    assert session.last_reply is reply
    np.testing.assert_array_equal(click(session, B, obj=0), disks([A, B]))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: s.click(80, 5), InvalidClick),
        (lambda s: s.click(float("nan"), 5), InvalidClick),
        (lambda s: s.click(1, 1, obj=7), InvalidInput),
        (lambda s: s.click_many({}), InvalidInput),
        (lambda s: s.click_many({0: A, 1: A}), InvalidInput),
        (lambda s: s.undo(7), InvalidInput),
        (lambda s: s.mask("a"), InvalidInput),
        (lambda s: s.reset(-1), InvalidInput),
    ],
)
def test_wrong_input_is_refused_before_anything_is_sent(server, session, call, error):
    before = snapshot(session)
    with pytest.raises(error):
        call(session)
    assert server.requests == []
    assert snapshot(session) == before


def test_the_25th_click_is_refused_and_undo_makes_room(server, session):
    for x in range(24):
        session.click(x, 5)
    with pytest.raises(TooManyClicks):
        session.click(40, 5)
    assert len(server.requests) == 24
    session.undo()
    session.click(40, 5)
    session.click(41, 5, positive=False)
    assert len(session.clicks()) == 25


def test_replies_that_do_not_fit_change_nothing(server, session):
    other = Session(server, load_image(IMAGE[:30]))
    click(other, A)
    wrong = other.last_reply
    server.click = lambda *_: wrong
    with pytest.raises(IncompatibleServer, match=r"masks of shape \(1, 30, 80\)"):
        click(session, B)
    assert session.clicks() == ()


def test_masks_that_arrive_packed_are_stored_without_repacking(server, session):
    packed = pack_mask(disks([A]))
    unpacked = server.click
    server.click = lambda *call: replace(unpacked(*call), packed=(packed,))
    np.testing.assert_array_equal(click(session, A), disks([A]))
    assert session._state.history(0).now.packed is packed
    np.testing.assert_array_equal(session.mask(), disks([A]))


def test_depth_and_logits_come_only_when_wanted(session):
    click(session, A)
    assert session.last_reply.depth is None
    assert session.last_reply.logits is None
    click(session, B, want_depth=True, want_logits=True)
    geometry = session.geometry
    size = (geometry.network_height, geometry.network_width)
    assert session.last_reply.depth.shape == size
    assert session.last_reply.logits.shape == (1, *size)
    assert session.last_reply.timings_ms == {"decode": 1.0}


def test_the_caller_may_draw_on_a_mask_without_changing_the_session(session):
    mask = click(session, A)
    mask[:] = 1
    session.mask()[:] = 1
    np.testing.assert_array_equal(session.mask(), disks([A]))


def test_encoding_at_once_raises_errors_early_and_encoding_later_works(server):
    Session(server, load_image(IMAGE), encode=False)
    assert server.encodes == 0
    lazy = Session(server, load_image(IMAGE), encode=False)
    assert lazy.last_encode is None
    np.testing.assert_array_equal(click(lazy, A), disks([A]))
    assert server.encodes == 1
    assert lazy.last_encode is None  # it was sent with the click
    damaged = load_image(b"P6 80 60 255\n" + bytes(100))
    with pytest.raises(InvalidImage):
        Session(server, damaged)


def test_clicks_from_many_threads_wait_for_each_other(server, session):
    threads = [threading.Thread(target=session.click, args=(x, 10)) for x in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clicks = session.clicks()
    assert sorted(one.x for one in clicks) == list(range(20))
    assert server.most_inside == 1
    assert [request.points.shape[1] for request in server.requests] == list(range(1, 21))
    np.testing.assert_array_equal(session.mask(), disks(clicks))


def test_a_reply_for_an_object_that_has_changed_is_dropped():
    """Async sessions rely on the state to refuse a stale reply."""
    server, picture = Disks(), load_image(IMAGE)
    server.encode(picture)
    state = SessionState(picture.digest, Geometry.fit(80, 60, longest=140))
    pending = state.begin({0: A})
    late = server.click(pending.request)
    other = state.begin({0: B})
    state.commit(other, server.click(other.request))
    with pytest.raises(InvalidInput, match="changed while its click was in progress"):
        state.commit(pending, late)
    assert state.history(0).now.clicks == (B,)
