"""What `ois bench soak` plans, counts and concludes; tests/scenarios/faults has a short run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ois_benchmarks.soak.chart import soak_svg
from ois_benchmarks.soak.plan import LONGEST_VISIT, MEAN_CLICKS, SoakPlan
from ois_benchmarks.soak.result import MIB, Histogram, defects, growth, table
from ois_benchmarks.soak.run import SoakRun
from ois_benchmarks.soak.scripts import Scripts, digest_of
from ois_cli.bench.soak import _amount
from ois_cli.main import main
from ois_client.contract.errors import InvalidInput
from ois_client.contract.images import load_image
from support.tiny_engines import write_engines

PLAN = SoakPlan(hours=1, clicks=20_000, images=1_000, restarts=3, seed=4)

# -- the plan ------------------------------------------------------------------------------------


def test_the_visits_have_all_clicks_and_all_images_in_the_time_of_the_plan() -> None:
    visits = PLAN.visits()
    assert sum(one.clicks for one in visits) == 20_000
    assert {one.image for one in visits} == set(range(1_000))
    assert all(1 <= one.clicks <= LONGEST_VISIT for one in visits)
    assert 20_000 / len(visits) == pytest.approx(MEAN_CLICKS, rel=0.03)
    times = [one.at_s for one in visits]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 3600
    # A new image comes after those before it, so features can be missing and can be stored.
    first = {one.image: at for at, one in reversed(list(enumerate(visits)))}
    assert [first[image] for image in range(1_000)] == sorted(first.values())
    assert PLAN.restart_times() == [900, 1800, 2700]


def test_visits_arrive_at_random_times() -> None:
    """The gaps of a Poisson process have a standard deviation equal to their mean."""
    gaps = np.diff([one.at_s for one in PLAN.visits()])
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)


def test_visits_follow_from_the_seed() -> None:
    changed = SoakPlan(hours=1, clicks=20_000, images=1_000, restarts=3, seed=5)
    assert PLAN.visits() == PLAN.visits() != changed.visits()


@pytest.mark.parametrize(
    "changes",
    [
        {"hours": 0},
        {"clicks": 0},
        {"images": 100, "clicks": 799},
        {"every_s": 0},
        {"kinds": ("reboot",)},
    ],
)
def test_a_plan_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        SoakPlan(**changes)


def test_the_third_of_hours_clicks_and_rate_follows_from_two() -> None:
    assert _amount(None, None, None) == (2.0, 100_000)
    assert _amount(0.5, None, 10) == (0.5, 18_000)
    assert _amount(None, 36_000, 10) == (1.0, 36_000)
    assert _amount(None, None, 100_000 / 3600) == (pytest.approx(1.0), 100_000)
    with pytest.raises(InvalidInput, match="two of them"):
        _amount(1, 10, 10)
    with pytest.raises(InvalidInput, match="above 0"):
        _amount(None, None, 0)


# -- images and masks ----------------------------------------------------------------------------


def test_images_are_made_again_from_their_number() -> None:
    scripts, again = Scripts(seed=1), Scripts(seed=1)
    digests = set()
    for number in range(40):
        data = scripts.image(number)
        assert data == again.image(number)
        picture = load_image(data)
        assert (picture.width, picture.height) == scripts.size(number)
        digests.add(picture.digest)
        clicks = scripts.clicks(number)
        assert clicks == again.clicks(number)
        assert len(clicks) == LONGEST_VISIT
        assert all(0 <= x < picture.width and 0 <= y < picture.height for x, y, _ in clicks)
        assert clicks[0][2]  # an object begins with a positive click
    assert len(digests) == 40
    assert Scripts(seed=2).image(0) != scripts.image(0)


def test_the_digest_of_a_mask_changes_with_any_pixel() -> None:
    mask = np.zeros((9, 7), np.uint8)
    digests = {digest_of(mask)}
    for y, x in np.ndindex(mask.shape):
        changed = mask.copy()
        changed[y, x] = 1
        digests.add(digest_of(changed))
    assert len(digests) == 1 + mask.size


# -- the result ----------------------------------------------------------------------------------


def test_a_histogram_gives_quantiles_to_two_percent_and_goes_on_from_json() -> None:
    values = np.random.default_rng(0).lognormal(3, 1, 5_000).tolist()
    half = Histogram()
    half.add(values[:2_500])
    whole = Histogram(json.loads(json.dumps(half.to_dict())))
    whole.add(values[2_500:])
    summary = whole.summary()
    assert summary["count"] == 5_000
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1)):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert exact * 0.999 <= summary[name] <= exact * 1.021
    few = Histogram()
    few.add([5.0])
    assert few.summary()["p50"] is None
    assert few.summary()["max"] == pytest.approx(5, rel=0.02)


def window(at_s: float, server_mib: float, client_mib: float) -> dict[str, Any]:
    def held(mib: float, processes: int) -> dict[str, Any]:
        return {
            "processes": processes if mib else 0,
            "memory_bytes": mib * MIB,
            "descriptors": 100,
            "threads": 7,
        }

    times = {"p50": 5.0, "p95": 9.0, "p99": None, "max": 20.0}
    return {
        "at_s": at_s,
        "opens": 3,
        "stored": 1,
        "click_ms": times,
        "server": held(server_mib, 6),
        "client": held(client_mib, 1),
        "shm_bytes": 3 * MIB,
        "store_bytes": None if not server_mib else MIB,
    }


def document() -> dict[str, Any]:
    """Two hours; the server grows by 6 MiB per hour, is restarted after one, then stays equal."""
    minutes = range(2, 121, 2)
    windows = []
    for minute in minutes:
        server = 200 + 6 * minute / 60 if minute <= 60 else 210
        server = 0 if minute == 62 else server  # it starts
        server = 900 if minute == 40 else server  # an outlier
        windows.append(window(60 * minute, server, 70 - minute / 60))
    events = [
        {"at_s": 3601.0, "kind": "kill-server", "recovered": True, "recover_s": 5.0},
        {"at_s": 5000.0, "kind": "resumed", "recovered": None, "recover_s": None},
    ]
    clicks = {"answered": 900, "failed": {"SERVER_UNAVAILABLE": 4}, "lost": 0, "wrong": 0}
    times = {"count": 900, "p50": 5.0, "p95": 9.0, "p99": 10.0, "p99.9": None, "max": 20.0}
    return {
        "elapsed_s": 7200.0,
        "clicks": {**clicks, "late": 0, "untyped": {}, "slowest_s": 5.0},
        "images": 45,
        "visits": {"planned": 190, "begun": 180, "under_way": []},
        "events": events,
        "windows": windows,
        "latency_ms": {"click": times},
        "growth": growth(windows, [3601.0]),
        "left": {"shm_files": 0, "processes": 0},
    }


def test_growth_is_told_for_each_server_and_for_the_clients() -> None:
    found = growth(document()["windows"], [3601.0])
    first, second = found["server"]
    assert first["mib_per_hour"] == pytest.approx(6, abs=0.01)
    assert (first["from_s"], second["from_s"]) == (0, 3601.0)
    assert second["mib_per_hour"] == 0
    assert second["windows"] == 20  # 29 of which the first 30 % are left out, the start before them
    assert found["client"]["mib_per_hour"] == pytest.approx(-1, abs=0.01)
    assert growth(document()["windows"][:4], [])["client"]["mib_per_hour"] is None


def test_what_must_be_0_is_named() -> None:
    good = document()
    assert set(defects(good).values()) == {0}
    bad = document()
    bad["clicks"].update(lost=1, wrong=2, late=3, untyped={"ValueError: x": 4})
    bad["events"][0]["recovered"] = False
    bad["left"] = {"shm_files": 5, "processes": 6}
    assert Counter(defects(bad).values()) == Counter([1, 2, 3, 4, 1, 5, 6])
    text = table(good)
    assert "900 clicks on 45 images in 180 sessions, 1 restarts" in text
    assert "10 of 190 sessions did not begin within the time" in text
    assert "4 SERVER_UNAVAILABLE" in text
    assert "server from minute 0       +6.00 MiB/h" in text


def test_the_chart_is_a_document_with_its_restarts() -> None:
    svg = soak_svg(document())
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "900 clicks on 45 images in 120 minutes; lost 0, wrong 0" in svg
    assert svg.count("<title>kill-server, answered after 5.0 s</title>") == 4  # one per panel


# -- an interrupted run --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan": {}}, "another plan"),
        ({"benchmark": "load"}, "another benchmark"),
        ({"complete": True}, "is complete"),
        ({"visits": None}, "is damaged"),
    ],
)
def test_a_result_that_cannot_be_continued_is_refused(
    engines: Path, changes: dict[str, Any], message: str
) -> None:
    run = SoakRun(engines, PLAN)
    before = json.loads(json.dumps(run.document))
    with pytest.raises(InvalidInput, match=message):
        run.resume_from({**before, **changes})


def test_three_amounts_are_refused_before_any_work(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--hours", "1", "--clicks", "5", "--rate", "2"]
    where = [f"--engines={engines}", f"--output={tmp_path / 'soak.json'}"]
    assert main(["bench", "soak", *words, *where]) == 2
    assert "expected two of them at most" in capsys.readouterr().err
