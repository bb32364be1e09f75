"""`ois bench load`: clicks are timed from when they were due; none is lost; runs can be resumed."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ois_benchmarks.load.chart import BAR, bar, line, live, sparkline, table
from ois_benchmarks.load.meter import MAX_FAILURES, Meter
from ois_benchmarks.load.pacing import LoadPlan, Pace, Step, ThinkTime, next_step
from ois_benchmarks.load.pictures import LoadPicture, read_pictures
from ois_benchmarks.load.result import (
    Latency,
    StepResult,
    describe_saturation,
    saturation,
)
from ois_benchmarks.load.run import LoadRun
from ois_benchmarks.statistics import Estimate, quantiles, stage_medians
from ois_cli.main import main
from ois_client.contract.errors import (
    InvalidImage,
    InvalidInput,
    ServerOverloaded,
    ServerUnavailable,
)
from ois_client.contract.images import Picture, load_image
from ois_client.contract.transport import ClickReply, ClickRequest, EncodeReply, ModelInfo
from ois_runtime.engines.local import open_transport
from support.load_steps import step_result
from support.tiny_engines import write_engines

PLAN = LoadPlan(
    seconds=0.3,
    cold_images=3,
    fast_users=(2,),
    human_users=(3,),
    rates=(40.0,),
    think=ThinkTime(median_s=0.02),
    clicks_an_image=3,
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[LoadPicture]:
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(((112, 56), (56, 112))):
        ramp = np.linspace(0, 255, size[0] * size[1] * 3).astype(np.uint8)
        pixels = ramp.reshape(size[1], size[0], 3)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
    return read_pictures(sorted(folder.glob("*.jpg")))


class Silent:
    """An observer. interrupt_at: the step that Ctrl-C interrupts, counted from 0."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.steps: list[Step] = []
        self.interrupt_at = interrupt_at

    def began(self, step: Step) -> None:
        if len(self.steps) == self.interrupt_at:
            raise KeyboardInterrupt
        self.steps.append(step)

    def tick(self, step: Step, meter: Meter) -> None:
        pass

    def ended(self, result: StepResult) -> None:
        assert result.pace == self.steps[-1].pace


class Slow:
    """A real transport that answers one click at a time, and can be made to fail."""

    def __init__(self, engines: Path, seconds: float = 0.0, fail_every: int = 0) -> None:
        self.inner = open_transport(str(engines))
        self.seconds, self.fail_every = seconds, fail_every
        self.one = threading.Lock()
        self.clicks = 0
        self.free = 20  # clicks of the warm-up, which do not fail

    def info(self) -> ModelInfo:
        return self.inner.info()

    def encode(self, picture: Picture) -> EncodeReply:
        return self.inner.encode(picture)

    def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        with self.one:
            self.clicks += 1
            time.sleep(self.seconds)
            counted = self.clicks - self.free
            if self.fail_every and counted > 0 and counted % self.fail_every == 0:
                raise ServerOverloaded("the queue is full")
            return self.inner.click(request, picture)

    def close(self) -> None:
        self.inner.close()


def measured(run: LoadRun, observer: Silent | None = None) -> dict[str, StepResult]:
    """The steps, by pace."""
    saved: list[Mapping[str, Any]] = []
    run.run(observer or Silent(), saved.append)
    assert len(saved) == len(run.steps) + 1  # after each step and at the end
    return {step.pace: step for step in run.steps}


# -- the plan ---------------------------------------------------------------------------------


def test_think_times_have_the_stated_median_and_mean() -> None:
    think = ThinkTime(median_s=2.0, sigma=0.5)
    generator = np.random.default_rng(0)
    drawn = [think.draw(generator) for _ in range(4000)]
    assert np.median(drawn) == pytest.approx(2.0, rel=0.05)
    assert np.mean(drawn) == pytest.approx(think.mean_s, rel=0.05)
    assert think.mean_s == pytest.approx(2.0 * math.exp(0.125))


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 0},
        {"fast_users": (0,)},
        {"rates": (-1.0,)},
        {"limit_ms": 0},
        {"clicks_an_image": 25},
        {"paces": ()},
        {"cold_images": 0},
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        LoadPlan(**wrong)


@pytest.mark.parametrize("median_s", [0, math.inf, math.nan])
def test_an_impossible_think_time_is_refused(median_s: float) -> None:
    with pytest.raises(InvalidInput, match="think time"):
        ThinkTime(median_s=median_s)


def test_steps_come_in_order_and_done_ones_are_left_out() -> None:
    plan = LoadPlan(fast_users=(1, 4), human_users=(), rates=(5.0,))
    steps: list[StepResult] = []
    seen = []
    while step := next_step(plan, steps, click_s=0.1):
        seen.append((step.pace, step.level))
        steps.append(step_result(step.level, pace=step.pace.value))
    assert seen == [
        (Pace.COLD, 8), (Pace.WARM, 8), (Pace.FAST, 1), (Pace.FAST, 4), (Pace.ARRIVALS, 5.0)
    ]  # fmt: skip
    assert next_step(plan, steps[:2], click_s=0.1) == Step(Pace.FAST, 1)


@pytest.mark.parametrize("capacity", [0.4, 3.0, 9.7, 31.0, 400.0])
def test_the_ramp_brackets_the_sustained_rate(capacity: float) -> None:
    plan = LoadPlan(paces=(Pace.ARRIVALS,))
    steps: list[StepResult] = []
    while step := next_step(plan, steps, click_s=0.1):
        failed = {} if step.level <= capacity else {"SERVER_OVERLOADED": 1}
        steps.append(step_result(step.level, failed=failed))
    found = saturation(steps, plan.limit_ms, cycle_s=1.97)
    assert found is not None
    assert found["rate"] <= capacity < found["first_above"] <= 1.07 * found["rate"]
    assert found["people"] == int(found["rate"] * 2.0)  # a cycle of 1.97 s and a click of 30 ms
    assert len(steps) < 24


def test_low_rates_run_longer_and_pictures_without_a_time_limit() -> None:
    plan = LoadPlan(seconds=10)
    assert Step(Pace.ARRIVALS, 100).seconds(plan) == 10
    assert Step(Pace.ARRIVALS, 1).seconds(plan) == 30
    assert Step(Pace.ARRIVALS, 0.1).seconds(plan) == 60
    assert Step(Pace.COLD, 3).seconds(plan) == math.inf


# -- the result of a step ----------------------------------------------------------------------


def test_the_reasons_why_a_step_is_not_sustained() -> None:
    slow = Latency(100, Estimate(300, 1, 1), Estimate(700, 1, 1), None, 900.0)
    assert step_result(10).problem(500) is None
    assert step_result(10, latency_ms=slow).problem(500) == "p95 is 700 ms"
    few = Latency(9, Estimate(300, 1, 1), None, None, 900.0)
    assert step_result(10, latency_ms=few).problem(500) == "the slowest click is 900 ms"
    assert step_result(10, failed={"A": 2}, failed_opens={"B": 1}).failures == 3
    assert step_result(10, failed={"A": 2}).problem(500) == "2 of 100 clicks failed"
    assert step_result(10, stopped="512 clicks were waiting").problem(500) is not None
    behind = step_result(10, elapsed_s=11.0)
    assert behind.throughput == pytest.approx(100 / 11)
    assert behind.problem(500) == "9.09 of 10 clicks/s were answered"


def test_the_last_click_may_take_its_time() -> None:
    usual = Latency(100, Estimate(900, 1, 1), Estimate(950, 1, 1), None, 990.0)
    assert step_result(10, elapsed_s=10.9, latency_ms=usual).problem(1000) is None


def test_a_step_survives_json() -> None:
    step = step_result(10, failed={"A": 1}, stages_ms={"decode": 3.0}, stopped="why")
    assert StepResult.from_dict(json.loads(json.dumps(step.to_dict()))) == step


def test_saturation_in_words() -> None:
    steps = [step_result(20.0), step_result(30.0, failed={"A": 3})]
    found = saturation(steps, 500, cycle_s=1.97)
    assert found is not None
    assert describe_saturation(found) == (
        "sustained: 20 clicks/s with p95 within 500 ms; at 30 clicks/s 3 of 300 clicks failed. "
        "That is about 40 people clicking every 2 s"
    )
    assert saturation([], 500, 1.97) is None
    nothing = saturation(steps[1:], 500, 1.97)
    assert nothing is not None
    assert describe_saturation(nothing).startswith("no rate was sustained: at 30 clicks/s 3 of")


# -- statistics -------------------------------------------------------------------------------


def test_quantiles_are_stated_only_if_a_sample_lies_beyond() -> None:
    few = quantiles(list(range(19)))
    assert few["p50"] is not None
    assert few["p50"].value == 9
    assert few["p95"] is None
    enough = quantiles(list(range(101)))
    assert enough["p95"] is not None
    assert enough["p99"] is not None
    assert (enough["p95"].value, enough["p99"].value) == (95, 99)
    assert enough["p95"].low <= 95 <= enough["p95"].high
    assert quantiles([]) == {"p50": None, "p95": None, "p99": None}
    assert quantiles(list(range(101))) == enough


def test_clicks_that_are_slow_together_widen_the_interval() -> None:
    generator = np.random.default_rng(1)
    values = generator.exponential(size=900)
    alone = quantiles(values.tolist())["p50"]
    together = quantiles(np.sort(values).tolist())["p50"]
    assert alone is not None
    assert together is not None
    assert together.value == alone.value
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_time_outside_all_stages_is_the_rest() -> None:
    served = {"queue": 1.0, "decode": 5.0, "total": 7.0}
    assert stage_medians([served], [10.0]) == {"queue": 1.0, "decode": 5.0, "rest": 2.0}
    assert stage_medians([{"decode": 5.0, "postprocess": 1.0}], [7.0])["rest"] == 1.0
    assert stage_medians([], []) == {}


# -- pictures ---------------------------------------------------------------------------------


def test_an_unseen_copy_has_the_same_pixels_and_another_digest(
    pictures: list[LoadPicture],
) -> None:
    copies = [pictures[0].unseen(f"mark {n}") for n in range(2)]
    loaded = [load_image(one.data) for one in (pictures[0], *copies)]
    assert len({one.digest for one in loaded}) == 3
    for one in loaded[1:]:
        np.testing.assert_array_equal(one.pixels(), loaded[0].pixels())


def test_other_formats_become_jpeg_and_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(path)
    (picture,) = read_pictures([path])
    assert (picture.width, picture.height) == (30, 20)
    assert np.abs(load_image(picture.data).pixels().astype(int) - 200).max() <= 1
    broken = tmp_path / "b.jpg"
    broken.write_bytes(picture.data[:-200])
    with pytest.raises(InvalidImage):
        read_pictures([broken])


def test_the_shipped_photographs_are_the_default() -> None:
    assert [one.name for one in read_pictures()] == sorted(one.name for one in read_pictures())
    assert len(read_pictures()) >= 3


# -- runs on real engines ---------------------------------------------------------------------


def test_a_run_counts_every_click(engines: Path, pictures: list[LoadPicture]) -> None:
    run = LoadRun(f"local:{engines}", pictures, PLAN, {"kind": "in process", "protocol": "local"})
    steps = measured(run)
    assert list(steps) == ["cold", "warm", "fast", "human", "arrivals"]
    for step in steps.values():
        assert (step.lost, step.failed, step.failed_opens, step.recovered) == (0, {}, {}, 0)
        assert step.due == step.answered == step.latency_ms.count > 0
        assert {"decode", "postprocess", "rest"} <= step.stages_ms.keys()
    assert (steps["cold"].encodes, steps["warm"].encodes) == (3, 0)
    assert steps["cold"].first_click_ms.count == steps["cold"].open_ms.count == 3
    assert steps["arrivals"].due == 30  # a step has at least 30: 0.75 s of 40/s
    assert steps["arrivals"].open_ms.count == 0
    document = run.document
    assert document["complete"] is True
    assert document["lost"] == 0
    assert document["model"]["network"] == "tiny-test"
    assert document["saturation"]["limit_ms"] == 500
    assert len(document["model"]["sha256"]) == 64


def test_time_counts_from_when_a_click_was_due(engines: Path, pictures: list[LoadPicture]) -> None:
    # 30 clicks fall due within 0.3 s, and this server needs 0.02 s for each, one by one.
    plan = replace(PLAN, paces=(Pace.ARRIVALS,), rates=(100.0,))
    step = measured(LoadRun(Slow(engines, seconds=0.02), pictures, plan, {}))["arrivals"]
    assert step.due == step.answered == 30
    assert step.latency_ms.max is not None
    assert step.latency_ms.max >= 1000 * (30 * 0.02 - 0.3)


def test_failures_are_counted_by_their_code(engines: Path, pictures: list[LoadPicture]) -> None:
    plan = replace(PLAN, paces=(Pace.ARRIVALS,))
    run = LoadRun(Slow(engines, fail_every=3), pictures, plan, {})
    step = measured(run)["arrivals"]
    assert step.due == 30
    assert step.failed["SERVER_OVERLOADED"] == step.due - step.answered > 0
    assert step.lost == 0
    assert run.document["saturation"]["rate"] is None


def test_a_server_that_only_fails_ends_the_step(engines: Path, pictures: list[LoadPicture]) -> None:
    plan = replace(PLAN, paces=(Pace.FAST,), fast_users=(1,), seconds=60)
    step = measured(LoadRun(Slow(engines, fail_every=1), pictures, plan, {}))["fast"]
    assert step.stopped is not None
    assert step.stopped.startswith(f"{MAX_FAILURES} failures in a row, the last: the queue")
    assert step.failed["SERVER_OVERLOADED"] >= MAX_FAILURES
    assert step.lost == 0


def test_a_server_that_no_longer_answers_ends_the_run(
    engines: Path, pictures: list[LoadPicture]
) -> None:
    plan = replace(PLAN, paces=(Pace.COLD, Pace.FAST, Pace.ARRIVALS))
    server = Slow(engines, fail_every=1)
    server.free = 12 + 3  # the clicks of the warm-up and of the cold step
    run = LoadRun(server, pictures, plan, {})
    with pytest.raises(ServerUnavailable, match=r"'2 users, no pause' was answered \(SERVER_OVER"):
        run.run(Silent(), lambda _: None)
    assert [step.pace for step in run.steps] == ["cold"]
    assert run.document["complete"] is False


def test_clicks_on_evicted_images_are_counted(engines: Path, pictures: list[LoadPicture]) -> None:
    # The store has room for one picture, so two sessions evict each other's features.
    plan = replace(PLAN, paces=(Pace.ARRIVALS,))
    run = LoadRun(f"local:{engines}", pictures, plan, {}, cache_bytes=8_000)
    step = measured(run)["arrivals"]
    assert step.recovered > 0
    assert (step.answered, step.lost) == (30, 0)


def test_an_interrupted_run_resumes_where_it_stopped(
    engines: Path, pictures: list[LoadPicture]
) -> None:
    address = f"local:{engines}"
    first = LoadRun(address, pictures, PLAN, {})
    with pytest.raises(KeyboardInterrupt):
        first.run(Silent(interrupt_at=2), lambda _: None)
    kept = json.loads(json.dumps(first.document))
    assert [step["pace"] for step in kept["steps"]] == ["cold", "warm"]
    assert kept["complete"] is False

    second, seen = LoadRun(address, pictures, PLAN, {}), Silent()
    second.resume_from(kept)
    second.run(seen, lambda _: None)
    assert [step.pace for step in seen.steps] == [Pace.FAST, Pace.HUMAN, Pace.ARRIVALS]
    assert second.document["complete"] is True
    assert second.document["steps"][0] == kept["steps"][0]

    with pytest.raises(InvalidInput, match="another plan"):
        LoadRun(address, pictures, replace(PLAN, seed=1), {}).resume_from(kept)
    with pytest.raises(InvalidInput, match="damaged"):
        LoadRun(address, pictures, PLAN, {}).resume_from({**kept, "steps": [{"pace": "fast"}]})
    another = LoadRun(address, pictures, PLAN, {})
    another.resume_from({**kept, "model": {**kept["model"], "sha256": "0" * 64}})
    with pytest.raises(InvalidInput, match="the run began with"):
        another.run(Silent(), lambda _: None)


# -- the chart --------------------------------------------------------------------------------


def test_bars_are_logarithmic_and_marked_beyond_the_limit() -> None:
    assert bar(100, 100) == "█" * BAR
    assert bar(10, 100) == "█" * (BAR // 2)
    assert bar(0.5, 100) == ""
    assert bar(101, 100) == "█" * (BAR - 1) + "▶"
    assert sparkline([0, 1, 2]) == "▁▅█"
    assert sparkline([0, 0]) == "▁▁"


def test_the_table_shows_failures() -> None:
    bad = step_result(30.0, failed={"SERVER_OVERLOADED": 4}, lost=1, encodes=2)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table([step_result(20.0), bad], 500))
    meter = Meter(10.0)
    meter.due = 3
    console.print(live([], Step(Pace.FAST, 4), meter, 500))
    text = console.export_text()
    assert "20 clicks/s arriving" in text
    assert "4 click SERVER_OVERLOADED, 1 LOST" in text
    assert "4 users, no pause, second 0 of 10" in text
    assert "0 answered, 3 in flight" in text
    assert line(bad).startswith("30 clicks/s arriving: 29.9 clicks/s, p50 30 ms, p95 40 ms, 4 cl")


# -- the command ------------------------------------------------------------------------------

QUICK = ("--seconds", "0.2", "--cold", "2", "--fast", "2", "--human", "2", "--think", "0.02")


def test_the_command_writes_what_it_prints(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "load.json"
    argv = ["bench", "load", f"local:{engines}", *QUICK, "--rate", "50", "-o", str(place)]
    assert main([*argv, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(place.read_text())
    assert [step["label"] for step in printed["steps"]] == [
        "2 new pictures",
        "2 known pictures",
        "2 users, no pause",
        "2 users, human pace",
        "50 clicks/s arriving",
    ]
    assert "local:" not in json.dumps(printed["target"])
    # A complete run is not measured again.
    assert main([*argv, "--resume"]) == 0
    assert json.loads(place.read_text())["steps"] == printed["steps"]
    assert "clicks lost: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--only", "quick"], "got the pace 'quick'"),
        (["--fast", "one"], "got --fast 'one'"),
        (["--human", "0"], "got 0 for users"),
        (["--limit-ms", "0"], "got 0 for the limit in ms"),
        (["--think", "-1"], "think time"),
        (["--image", "none.jpg"], "does not exist"),
        (["--protocol", "udp"], "got the protocol 'udp'"),
        (["-o", "load.txt"], "expected a name that ends in .json"),
        (["local:nowhere"], "no engines at nowhere"),
        (["local:", "--engines", "x"], "expected one of them"),
    ],
)
def test_bad_input_is_an_error_message(
    argv: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "load", *argv]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_only_a_load_result_can_be_resumed(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "other.json"
    argv = ["bench", "load", f"local:{engines}", *QUICK, "-o", str(place), "--resume"]
    for text, expected in (("{", "cannot resume"), ("[]", "not a result"), ("{}", "another ben")):
        place.write_text(text)
        assert main(argv) == 2
        assert expected in capsys.readouterr().err
        assert place.read_text() == text


def test_ctrl_c_keeps_the_finished_steps(engines: Path, tmp_path: Path) -> None:
    place = tmp_path / "load.json"
    steps = ",".join(map(str, range(1, 31)))
    argv = [
        *(sys.executable, "-m", "ois_cli.main", "bench", "load", f"local:{engines}"),
        *("--only", "fast", "--fast", steps, "--seconds", "0.5", "-o", str(place)),
    ]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not place.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    kept = json.loads(place.read_text())
    done = len(kept["steps"])
    assert 1 <= done < 30
    assert kept["complete"] is False
    assert f"{done} steps are in {place}; use --resume to continue" in said


@pytest.mark.skipif(
    importlib.util.find_spec("pytriton") is None, reason="nvidia-pytriton is not installed"
)
def test_a_server_is_started_and_clicked_on(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "load.json"
    argv = [
        *("bench", "load", "--engines", str(engines), "-o", str(place), "--json"),
        *("--only", "cold", "--only", "arrivals", "--cold", "2", "--rate", "40"),
        *("--seconds", "0.5"),
    ]
    assert main(argv) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["target"] == {"kind": "embedded server", "protocol": "grpc"}
    cold, arrivals = printed["steps"]
    assert (cold["encodes"], cold["lost"], arrivals["lost"]) == (2, 0, 0)
    assert (arrivals["due"], arrivals["answered"]) == (30, 30)
    assert {"queue", "decode", "rest"} <= arrivals["stages_ms"].keys()
