"""`ois bench boxes`: a box's clicks and the robot's click, scored on the same objects."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from ois_benchmarks.quality.boxes import document, measure, tight_box
from ois_benchmarks.quality.datasets import Dataset, Item, Target
from ois_client import Client
from support.disks import IMAGE, Disks, disks


def dataset() -> Dataset:
    """A square that the disks of `Disks` miss in parts, and a frame whose centre is empty."""
    square = np.zeros(IMAGE.shape[:2], bool)
    square[10:30, 15:35] = True
    frame = square.copy()
    frame[13:27, 18:32] = False

    def items() -> Iterator[Item]:
        yield Item("square", lambda: Target(IMAGE, square), "one")
        yield Item("frame", lambda: Target(IMAGE, frame), "one")

    return Dataset("two", "two", 2, "0", items)


def test_the_tight_box_has_the_outer_edges() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 7] = True
    assert tight_box(mask) == (6.5, 3.5, 7.5, 8.5)


def test_both_prompts_are_scored() -> None:
    with Client(Disks()) as client:
        square, frame = measure(client, dataset())
        result = document(client, dataset(), [square, frame])
    assert (square.centred, frame.centred) == (True, False)
    for one in (square, frame):
        assert 0 <= one.box <= 1
        assert 0 < one.click <= 1
    assert result["mean_iou_box"]["value"] == pytest.approx((square.box + frame.box) / 2)
    assert result["centre_beside_the_object"] == {"objects": 1, "mean_iou_box": frame.box}
    assert json.loads(json.dumps(result)) == result
    assert disks([]).shape == IMAGE.shape[:2]
