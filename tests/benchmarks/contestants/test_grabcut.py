"""GrabCut's seeds, its missing package, and its masks where OpenCV is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ois_benchmarks.contestants.base import NotHere, Place
from ois_benchmarks.contestants.client import PeerClient
from ois_benchmarks.contestants.peers.grabcut import (
    BACKGROUND,
    CERTAIN,
    LONGEST,
    MAYBE_BACKGROUND,
    MAYBE_OBJECT,
    OBJECT,
    PROBABLE,
    open_grabcut,
    seeds,
)
from ois_benchmarks.contestants.registry import open_contestant
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput


def test_clicks_are_certain_and_their_surroundings_probable() -> None:
    mask = seeds([Click(50, 40), Click(90, 60, False)], 100, 200)
    assert mask.shape == (100, 200)
    assert mask[40, 50] == mask[40, 50 + CERTAIN] == OBJECT
    assert mask[40, 50 + CERTAIN + 1] == mask[40, 50 + round(PROBABLE * 100)] == MAYBE_OBJECT
    assert mask[40, 50 + round(PROBABLE * 100) + 1] == MAYBE_BACKGROUND
    assert mask[60, 90] == BACKGROUND
    assert mask[60, 90 + CERTAIN + 1] == MAYBE_BACKGROUND
    assert seeds([Click(50, 40), Click(51, 40, False)], 100, 200)[40, 50] == BACKGROUND


def test_without_opencv_the_reason_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # an import of it fails
    with pytest.raises(NotHere, match=r"pip install .*opencv-python-headless"):
        open_contestant("grabcut", Place(threads=1, scratch=tmp_path))


def test_it_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has none"):
        open_grabcut(Place(threads=1, scratch=tmp_path, weights=tmp_path / "w.pth"))


class StandIn:
    """Takes the place of OpenCV: everything probable becomes background, but for one pixel."""

    __version__ = "0"
    GC_INIT_WITH_MASK = 1

    def setNumThreads(self, threads: int) -> None: ...

    def setRNGSeed(self, seed: int) -> None: ...

    def grabCut(self, image, mask, box, background, foreground, rounds, mode) -> None:  # type: ignore[no-untyped-def]
        assert image.shape[:2] == mask.shape
        assert (box, rounds, mode) == (None, 5, self.GC_INIT_WITH_MASK)
        assert background.shape == foreground.shape == (1, 65)
        mask[mask == MAYBE_OBJECT] = MAYBE_BACKGROUND
        mask[0, 0] = MAYBE_OBJECT


def test_object_is_what_is_certainly_or_probably_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", StandIn())
    with PeerClient("grabcut") as client:
        assert client.info.trained  # its results are not those of random weights
        session = client.open(np.zeros((60, 80, 3), np.uint8))
        mask = session.click(40, 30)
    rows, columns = np.indices((60, 80))
    expected = (columns - 40) ** 2 + (rows - 30) ** 2 <= CERTAIN**2
    expected[0, 0] = True
    np.testing.assert_array_equal(mask, expected)


def test_an_image_of_one_colour_model_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", StandIn())
    with PeerClient("grabcut") as client:
        assert client.open(np.zeros((4, 4, 3), np.uint8)).click(1, 1).all()  # all certain


def test_a_large_image_is_cut_at_a_smaller_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", StandIn())
    with PeerClient("grabcut") as client:
        mask = client.open(np.zeros((3 * 60, 3 * LONGEST, 3), np.uint8)).click(600, 90)
    assert mask.shape == (180, 3 * LONGEST)
    rows, columns = np.nonzero(mask[20:])  # without the corner that the stand-in adds
    assert columns.min() == pytest.approx(600 - 3 * CERTAIN, abs=3)
    assert columns.max() == pytest.approx(600 + 3 * CERTAIN, abs=3)
    assert (rows.min() + rows.max()) / 2 + 20 == pytest.approx(90, abs=2)


def test_opencv_finds_a_bright_disk(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    contestant = open_contestant("grabcut", Place(threads=1, scratch=tmp_path))
    rows, columns = np.indices((90, 120))
    disk = (columns - 70) ** 2 + (rows - 40) ** 2 <= 20**2
    noise = np.random.default_rng(0).integers(0, 40, (90, 120, 3))
    contestant.set_image((noise + 180 * disk[..., None]).astype(np.uint8))
    mask = contestant.click([Click(70, 40)])
    assert (mask & disk).sum() > 0.95 * (mask | disk).sum()
    again = contestant.click([Click(70, 40)])
    np.testing.assert_array_equal(mask, again)
    assert not contestant.click([Click(70, 40), Click(75, 45, False)])[45, 75]
