"""What notebooks show of a session and a client."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ois_client import Client
from ois_client.contract.images import load_image
from ois_client.sessions.picture import LONGEST
from ois_client.sessions.session import Session
from support.disks import IMAGE, Disks


def shown(session: Session) -> np.ndarray:
    with Image.open(io.BytesIO(session._repr_png_())) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_session_is_shown_as_its_image_with_masks_and_clicks() -> None:
    picture = load_image(IMAGE)
    session = Session(Disks(), picture)
    np.testing.assert_array_equal(shown(session), picture.pixels())
    mask = session.click(20, 20)
    drawn = shown(session)
    changed = (drawn != picture.pixels()).any(axis=2)
    assert changed[mask == 1].mean() > 0.9
    assert drawn[20, 20].tolist() == [46, 204, 64]
    session.click(30, 20, positive=False)
    assert shown(session)[20, 30].tolist() == [255, 65, 54]


def test_a_large_image_is_shown_smaller() -> None:
    session = Session(Disks(), load_image(np.zeros((100, 2 * LONGEST, 3), np.uint8)))
    assert shown(session).shape == (50, LONGEST, 3)


def test_a_client_is_shown_by_its_network_without_secrets() -> None:
    client = Client(Disks())
    text = client._repr_html_()
    assert client.info.network in text
    assert client.info.engine in text
    assert "Disks object" not in text
