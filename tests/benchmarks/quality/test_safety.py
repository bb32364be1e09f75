"""Click safety, mean IoU by groups and the worst objects, on clicks whose effect is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ois_benchmarks.quality.bootstrap import bootstrap_ratios
from ois_benchmarks.quality.objects import by_size, by_thinness, worst
from ois_benchmarks.quality.order import Order
from ois_benchmarks.quality.records import Failure, Log, Measured
from ois_benchmarks.quality.safety import ClickMetric, click_ratios


def record(
    name: str, ious: list[float], signs: str, right: str | None = None, area: int = 100
) -> Measured:
    """signs: + or - per click. right: 1 or 0 per click."""
    clicks = tuple((0.0, 0.0, sign == "+") for sign in signs)
    held = None if right is None else tuple(each == "1" for each in right)
    return Measured(name, 100, 100, area, tuple(ious), clicks, 1.0, right=held)


#: Gains of the later clicks: +0.4 (+), -0.06 (-), -0.05 (-), +0.01 (+); then -0.5 (-).
RECORDS = [
    record("a", [0.5, 0.9, 0.84, 0.79, 0.8], "++--+", "11010"),
    record("b", [0.7, 0.2], "+-", "10"),
]


def values(records: list[Measured]) -> dict[str, float | None]:
    found = bootstrap_ratios(click_ratios(records))
    return {
        str(metric): estimate and pytest.approx(estimate.value)
        for metric, estimate in zip(ClickMetric, found, strict=True)
    }


def test_only_later_clicks_count_and_5_points_are_not_lost() -> None:
    assert values(RECORDS) == {
        "lost": 2 / 5,
        "lost_positive": 0,
        "lost_negative": 2 / 3,
        "gain_positive": 0.41 / 2,
        "gain_negative": -0.61 / 3,
        "right": 2 / 5,
        "right_positive": 1 / 2,
        "right_negative": 1 / 3,
    }


def test_a_log_of_an_earlier_version_has_no_share_of_right_clicks() -> None:
    found = values([RECORDS[0], record("b", [0.7, 0.2], "+-")])
    assert found["lost"] == 2 / 5
    assert [found[name] for name in ("right", "right_positive", "right_negative")] == [None] * 3


def test_without_a_negative_click_there_is_nothing_to_say_about_them() -> None:
    found = values([record("a", [0.5, 0.6], "++", "11")])
    assert found["gain_negative"] is None
    assert found["gain_positive"] == 0.1


def test_a_click_that_failed_is_no_click() -> None:
    failed = Measured(
        *("a", 100, 100, 9, (0.5,), ((0, 0, True), (0, 0, True)), 1.0),
        failure=Failure(2, "X", "late"), right=(True,),
    )  # fmt: skip
    assert values([failed, RECORDS[1]])["lost"] == 1


def test_objects_are_grouped_by_their_share_of_the_image() -> None:
    log = Log(
        Path("a.jsonl"),
        {"clicks": 5},
        {
            one.name: one
            for one in (
                record("small", [0.2] * 5, "+++++", area=199),
                record("medium", [0.4] * 5, "+++++", area=200),
                record("also medium", [0.6] * 4 + [0.1], "+++++", area=999),
                record("large", [0.9] * 5, "+++++", area=1000),
            )
        },
    )
    sizes = by_size(log)
    assert [(one["size"], one["objects"]) for one in sizes] == [
        ("below 2 %", 1),
        ("2 to 10 %", 2),
        ("above 10 %", 1),
    ]
    assert {k: mean["value"] for k, mean in sizes[1]["miou"].items()} == pytest.approx(
        {"1": 0.5, "3": 0.5, "5": 0.25}  # ten clicks were not made
    )
    listed = worst(log)
    assert [one["name"] for one in listed] == ["also medium", "small", "medium", "large"]
    assert listed[0] == {
        "name": "also medium",
        "share": 0.0999,
        "thinness": None,
        "clicks": None,
        "iou": {"1": 0.6, "5": 0.1},
    }
    assert by_thinness(log) == []  # as a log of an earlier version


def test_the_worst_objects_are_sorted_as_asked_and_thin_ones_grouped() -> None:
    values = (
        ("disk", [0.2, 0.91, 0.92, 0.93, 0.5], 300, 1.0),
        ("fence", [0.1, 0.2, 0.3, 0.4, 0.6], 200, 4.0),
        ("pole", [0.1, 0.2, 0.3, 0.4, 0.9], 100, 2.5),
        *((f"good {k}", [0.95] * 5, 50, 9.0) for k in range(8)),
    )
    records = {
        name: replace(record(name, ious, "+++++", area=area), thinness=thin)
        for name, ious, area, thin in values
    }
    log = Log(Path("a.jsonl"), {"clicks": 5}, records)
    names = {order: [one["name"] for one in worst(log, order)] for order in Order}
    assert names[Order.IOU][:4] == ["disk", "fence", "pole", "good 0"]
    assert names[Order.AREA][-3:] == ["pole", "fence", "disk"]
    assert names[Order.THINNESS][-3:] == ["fence", "pole", "disk"]
    assert names[Order.CLICKS][:3] == ["fence", "pole", "disk"]  # never, five, two
    assert all(len(each) == 10 and "good 7" not in each for each in names.values())
    assert [one["clicks"] for one in worst(log)[:3]] == [2, None, 5]
    groups = by_thinness(log)
    assert [(one["thinness"], one["objects"]) for one in groups] == [
        ("compact, below 1.5", 1),
        ("thin, above 2.5", 10),
    ]
    assert groups[0]["miou"]["3"]["value"] == pytest.approx(0.92)
