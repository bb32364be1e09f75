"""`ois bench sat`: three modes stay apart; projections are marked and explained."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ois_benchmarks.contestants.base import Place
from ois_benchmarks.latency import run as latency
from ois_benchmarks.latency.result import Definition
from ois_benchmarks.latency.sat import measure_sat, spread
from ois_benchmarks.latency.spc import measure_spc
from ois_benchmarks.latency.work import Work, grid
from ois_cli.main import main
from ois_client.contract.errors import InvalidInput
from support.disk_contestant import Disk

WHOLE = Work(width=64, height=40, encodes=1, patience=1, sat_clicks=5, batch=6, full_below_s=1e9)
FEW = replace(WHOLE, full_below_s=0.0)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(Place(threads=1, scratch=tmp_path))


def test_a_fast_contestant_makes_every_click_in_every_mode(disk: Disk) -> None:
    encode, figures = measure_sat(disk, WHOLE)
    assert encode is not None
    assert set(figures) == {Definition.SEQUENTIAL, Definition.BATCHED, Definition.AUTOMATIC}
    assert not any(figure.projected for figure in figures.values())
    assert [figures[name].clicks for name in figures] == [256, 256, 256]
    assert [figures[name].batch for name in figures] == [1, 6, 1]
    for figure in figures.values():
        assert figure.timing is not None
        assert figure.seconds == figure.timing.median_s
        assert sum(figure.parts_s.values()) == pytest.approx(figure.seconds)
    counted = Counter(disk.calls)
    assert counted["click", 1] == 2 + 5 + 256  # warm-ups, the probe, all
    assert counted["batch", 6] == 2 + 1 + 42
    assert counted["batch", 4] == 1  # 256 = 42 x 6 + 4
    assert counted["automatic", 16] == 1


def test_a_slow_contestant_is_projected_from_few_clicks(disk: Disk) -> None:
    encode, figures = measure_sat(disk, FEW)
    assert encode is not None
    assert all(figure.projected for figure in figures.values())
    sequential, batched = figures[Definition.SEQUENTIAL], figures[Definition.BATCHED]
    assert (sequential.clicks, batched.clicks, batched.batch) == (5, 6, 6)
    for figure, calls in ((sequential, 256), (batched, 43)):
        assert figure.timing is not None
        assert figure.seconds == pytest.approx(encode.median_s + calls * figure.timing.median_s)
        assert figure.low_s <= figure.seconds <= figure.high_s
    automatic = figures[Definition.AUTOMATIC]
    assert automatic.timing is not None
    expected = encode.median_s + 16 * max(0.0, automatic.timing.median_s - encode.median_s)
    assert (automatic.clicks, automatic.seconds) == (16, pytest.approx(expected))
    assert ("automatic", 16) not in disk.calls


def test_without_an_encode_only_the_clicks_count(disk: Disk) -> None:
    disk.encodes = False
    encode, figures = measure_sat(disk, FEW)
    assert encode is None
    sequential = figures[Definition.SEQUENTIAL]
    assert sequential.timing is not None
    assert sequential.seconds == pytest.approx(256 * sequential.timing.median_s)


class ServedDisk(Disk):
    """A disk behind a server that says what it did."""

    served = True

    @property
    def stages_ms(self) -> dict[str, float]:
        objects = dict(self.calls[-1:]).get("batch", 1)
        return {"queue": 1.0, "decode": 2.0 * int(str(objects)), "total": 9.0}


@pytest.mark.parametrize("work", [WHOLE, FEW])
def test_a_servers_figures_say_where_the_time_of_a_call_went(tmp_path: Path, work: Work) -> None:
    disk = ServedDisk(Place(threads=1, scratch=tmp_path))
    _, figures = measure_sat(disk, work)
    single, several = figures[Definition.SEQUENTIAL], figures[Definition.BATCHED]
    assert single.stages_s["queue"] == several.stages_s["queue"] == pytest.approx(0.001)
    assert single.stages_s["decode"] == pytest.approx(0.002)
    assert several.stages_s["decode"] == pytest.approx(0.012)
    assert "rest" in single.stages_s
    _, session = measure_spc(disk, replace(work, clicks=3))
    assert session[Definition.SESSION].stages_s["decode"] == pytest.approx(0.002)


def test_in_process_there_are_no_stages(disk: Disk) -> None:
    _, figures = measure_sat(disk, FEW)
    assert not any(figure.stages_s for figure in figures.values())


def test_few_clicks_are_spread_over_the_whole_grid() -> None:
    points = grid(640, 480)
    few = spread(points, 5)
    assert [points.index(point) for point in few] == [0, 64, 128, 191, 255]
    assert spread(points, 1000) == points


def test_the_command_passes_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[latency.LatencyPlan] = []

    def run(plan: latency.LatencyPlan, output: Path, *, resume: bool, **_say: object) -> None:
        asked.append(plan)
        assert (output.name, resume) == ("sat.json", True)
        raise InvalidInput("enough")

    monkeypatch.setattr(latency, "run", run)
    argv = ["bench", "sat", "--resume", "-o", str(tmp_path / "sat.json"), "--size", "64x40"]
    argv += ["--full-below", "7", "--clicks", "3", "--batch", "2", "--threads", "1"]
    assert main(argv) == 2
    assert main([*argv, "-c", "ois"]) == 2
    servers = ["--url", "grpc://host:8001", "--url", "http://host", "--token", "secret"]
    assert main([*argv, *servers]) == 2
    assert main([*argv, *servers, "-c", "grabcut"]) == 2
    assert main([*argv, "-c", "ois", "-c", "ois-server"]) == 2
    plan, only_ours, elsewhere, beside, named = asked
    assert "ois-server" in named.contestants
    assert elsewhere.contestants == ("grpc://host:8001", "http://host:8000")
    assert beside.contestants == ("grabcut", *elsewhere.contestants)
    assert elsewhere.token == "secret"
    assert "secret" not in repr(elsewhere)
    assert latency.environment(elsewhere)["OIS_TOKEN"] == "secret"
    assert only_ours.contestants == plan.contestants[: len(only_ours.contestants)]
    assert all(name.startswith("ois-") for name in only_ours.contestants)
    assert not plan.contestants[len(only_ours.contestants)].startswith("ois-")
    assert "ois-server" not in plan.contestants
    assert {"ois-torch", "segnext-sax2", "simpleclick-1024-flip"} <= set(plan.contestants)
    (work,) = plan.work
    assert main([*argv, "--url", "local:engines"]) == 2  # not a server
    assert len(asked) == 5
    assert (work.full_below_s, work.sat_clicks, work.batch, work.width) == (7, 3, 2, 64)
