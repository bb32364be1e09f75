"""`ois bench spc`: every contestant becomes a row, also if it fails; definitions stay apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import pytest

from ois_benchmarks import machine, timing
from ois_benchmarks.contestants.base import Place
from ois_benchmarks.latency import run
from ois_benchmarks.latency.result import (
    Benchmark,
    Cost,
    Definition,
    Figure,
    LatencyResult,
    LatencyRow,
    read_result,
)
from ois_benchmarks.latency.spc import measure_spc, one_loop
from ois_benchmarks.latency.table import table_of
from ois_benchmarks.latency.work import Player, Work, ellipse, grid, jpeg, photograph, script
from ois_benchmarks.results import write_result
from ois_benchmarks.timing import Timing
from ois_cli.main import main
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput
from support.disk_contestant import Disk

T = TypeVar("T")

WORK = Work(width=64, height=40, encodes=2, clicks=3, loop_clicks=4, patience=1, batch=4)
TIME = Timing(0.25, 0.2, 0.3, 3, 1, 0.01, False, (0.2, 0.25, 0.3))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(Place(threads=1, scratch=tmp_path))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers can import the test's contestants, and no run waits for a quiet machine."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(run, "busy_share", lambda: 0.0)


def row(**changes: object) -> LatencyRow:
    figures = {
        Definition.CLICK: Figure(seconds=0.25, low_s=0.2, high_s=0.3, clicks=3, timing=TIME),
        Definition.LOOP: Figure(
            seconds=0.5, low_s=0.5, high_s=0.5, clicks=4, parts_s={"robot": 0.1, "click": 0.4}
        ),
    }
    identity = Disk(Place(threads=1, scratch=Path())).identity
    cost = Cost(parameters=1_500_000, encode_flops=0, encode_bytes=0, click_flops=2, click_bytes=3)
    whole = LatencyRow(
        contestant="disk",
        width=64,
        height=40,
        identity=identity,
        cost=cost,
        encode=TIME,
        figures=figures,
        peak_memory_bytes=2**30,
    )
    return replace(whole, **changes)


def result(*rows: LatencyRow) -> LatencyResult:
    return LatencyResult(benchmark=Benchmark.SPC, settings={"threads": 1}, machine={}, rows=rows)


def plan(*contestants: str, **changes: object) -> run.LatencyPlan:
    given = run.LatencyPlan(
        benchmark=Benchmark.SPC,
        contestants=tuple(f"support.disk_contestant:{name}" for name in contestants),
        work=(WORK,),
        threads=1,
    )
    return replace(given, **changes)


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    failed = LatencyRow(contestant="gone", width=64, height=40, failed="no clone", absent=True)
    written = result(row(), row(contestant="plain", cost=None, encode=None, figures={}), failed)
    path = tmp_path / "spc.json"
    path.write_text(json.dumps(written.to_dict()))
    assert read_result(path) == written
    assert set(json.loads(path.read_text())["definitions"]) == {"click", "loop", "session"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "schema 1"),
        ('{"latency_result": 2}', "schema 1"),
        ('{"latency_result": 1, "benchmark": "spc"}', "damaged"),
        (
            '{"latency_result": 1, "benchmark": "spc", "settings": {}, "machine": {}, '
            '"rows": [{"contestant": "a", "width": 1, "height": 1, "figures": {"mix": {}}}]}',
            "damaged",
        ),
    ],
)
def test_a_file_with_other_content_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=said):
        read_result(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_result(tmp_path / "missing.json")


def test_every_definition_belongs_to_one_benchmark_and_has_a_meaning() -> None:
    assert [d for d in Definition if d.benchmark is Benchmark.SPC] == ["click", "loop", "session"]
    assert [d for d in Definition if d.benchmark is Benchmark.SAT] == [
        *("sequential", "batched", "automatic")
    ]
    assert all("seconds" in d.meaning or d is Definition.BATCHED for d in Definition)


def test_all_contestants_get_the_same_picture_clicks_and_object() -> None:
    image = photograph(64, 40)
    assert (image.shape, image.dtype) == ((40, 64, 3), np.uint8)
    assert image.std() > 20  # a photograph, not a blank
    clicks = script(64, 40)
    assert clicks == script(64, 40)
    assert len(clicks) == 11
    assert all(0 <= c.x < 64 and 0 <= c.y < 40 for c in clicks)
    assert [c.positive for c in clicks[:6]] == [True, True, False] * 2
    target = ellipse(400, 200)
    assert target.shape == (200, 400)
    assert target.mean() == pytest.approx(np.pi / 16, rel=0.01)
    points = grid(64, 40)
    assert len(set(points)) == 256
    assert (points[0].x, points[0].y, points[-1].x, points[-1].y) == (2, 1, 62, 38)


def test_clicks_accumulate_and_begin_again(disk: Disk) -> None:
    disk.set_image(photograph(64, 40))
    together = Player(disk, script(64, 40)[:3], together=True)
    for _ in range(4):
        together.click()
    apart = Player(disk, script(64, 40)[:3], together=False)
    for _ in range(2):
        apart.click()
    assert [n for what, n in disk.calls if what == "click"] == [1, 2, 3, 1, 1, 1]


def test_click_and_loop_are_measured_apart(disk: Disk) -> None:
    encode, figures = measure_spc(disk, WORK)
    assert encode is not None
    assert encode.repeats == 2
    assert set(figures) == {Definition.CLICK, Definition.LOOP}
    click, loop = figures[Definition.CLICK], figures[Definition.LOOP]
    assert click.timing is not None
    assert click.seconds == click.timing.median_s
    assert loop.clicks == 4
    assert loop.timing is not None
    assert loop.seconds == loop.timing.median_s / 4
    assert 0 < sum(loop.parts_s.values()) <= loop.seconds
    images = [shape for what, shape in disk.calls if what == "image"]
    assert images == [(40, 64, 3)] * 5  # two warm-ups, two encodes, one in the loop


def test_a_served_contestant_has_a_session_and_no_click(disk: Disk) -> None:
    disk.served = True
    assert set(measure_spc(disk, WORK)[1]) == {Definition.SESSION}


def test_a_network_without_an_encoder_has_no_encode_figure(disk: Disk) -> None:
    disk.encodes = False
    encode, figures = measure_spc(disk, WORK)
    assert encode is None
    assert Definition.CLICK in figures


def test_the_loop_feeds_the_masks_to_the_robot(disk: Disk) -> None:
    parts = one_loop(disk, jpeg(photograph(64, 40)), WORK)
    assert set(parts) == {"decode", "encode", "robot", "click", "score"}
    assert all(seconds >= 0 for seconds in parts.values())
    assert [n for what, n in disk.calls if what == "click"] == [1, 2, 3, 4]


@pytest.mark.usefixtures("quiet")
def test_every_failure_is_a_row_and_resume_retries_only_failed_rows(tmp_path: Path) -> None:
    output = tmp_path / "spc.json"
    said: list[str] = []
    names = ("open_disk", "open_without_code", "open_with_bad_weights", "open_with_a_defect")
    everything = plan(*names, "open_faulty", "open_and_be_killed")
    found = run.run(everything, output, resume=False, say=said.append)
    good, absent, bad, defect, halfway, killed = found.rows
    assert good.failed is None
    assert good.identity is not None
    assert good.identity.engine == "numpy, 1 threads"
    assert good.cost == Disk(Place(threads=1, scratch=tmp_path)).cost()
    assert set(good.figures) == {Definition.CLICK, Definition.LOOP}
    assert good.peak_memory_bytes is not None
    assert (absent.absent, absent.failed) == (True, "its code is not here; clone it")
    assert (bad.absent, bad.failed) == (
        False,
        "the weights are of another network (ENGINE_ERROR)",
    )
    assert defect.failed == "ZeroDivisionError: in the peer's code"
    assert (halfway.failed, halfway.figures) == ("IndexError: click 3 in the peer's code", {})
    assert killed.failed == "its process was killed, most likely because memory ran out"
    assert read_result(output) == found
    again = run.run(plan("open_disk"), output, resume=True, say=said.append)
    assert again.rows == found.rows
    assert any("holds 1 measured rows" in text for text in said)


@pytest.mark.usefixtures("quiet")
def test_resuming_another_run_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "spc.json"
    run.run(plan(), output, resume=False, say=lambda _text: None)
    assert not output.exists()  # nothing was measured, so nothing was written
    write_result(output, run._begin(plan(), output, resume=True, say=print).to_dict())
    with pytest.raises(InvalidInput, match="another run: settings"):
        run.run(plan(threads=2), output, resume=True, say=lambda _text: None)
    with pytest.raises(InvalidInput, match="another run: benchmark spc, expected sat"):
        run.run(plan(benchmark=Benchmark.SAT), output, resume=True, say=lambda _text: None)


def test_too_little_memory_is_a_warning_because_it_may_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(2**34, 2**30))
    monkeypatch.setattr(run, "subprocess", SimpleNamespace())
    said: list[str] = []
    with (
        run.OisEngines("tiny", None, lambda _text: None) as engines,
        pytest.raises(AttributeError),  # of `subprocess`: the contestant is started all the same
    ):
        run.measure(plan(), "sam-vitb", WORK, engines, said.append)
    assert "it needs about 4.5 GiB of memory and 1.0 GiB are free; if it fails" in said[-1]


@pytest.mark.usefixtures("quiet")
def test_killing_a_run_ends_its_contestant(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    pid.touch()
    name = "support.disk_contestant:open_and_wait"
    argv = ["bench", "spc", "-c", name, "--weights", f"{name}={pid}", "--size", "64x40"]
    argv += ["-o", str(tmp_path / "spc.json")]
    code = f"from ois_cli.main import main; main({argv!r})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as parent:
        worker = _wait_for(lambda: pid.read_text())
        assert _is_running(worker)
        parent.kill()
    _wait_for(lambda: not _is_running(worker))


def _is_running(pid: str) -> bool:
    """Whether the process runs. A zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _wait_for(look: Callable[[], T], seconds: float = 50) -> T:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


@pytest.mark.usefixtures("quiet")
def test_a_busy_machine_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(run, "busy_share", lambda: 0.5)
    run.run(plan(), tmp_path / "spc.json", resume=False, say=said.append)
    assert said[0].startswith("other programs use 50% of the cores")


def test_the_table_shows_every_row_and_marks_noisy_and_projected_figures() -> None:
    projected = Figure(seconds=9.0, low_s=8.0, high_s=10.0, clicks=2, projected=True)
    made = result(
        row(noisy=True),
        row(contestant="x", encode=None, figures={Definition.SESSION: projected}, cost=None),
        LatencyRow(contestant="gone", width=64, height=40, failed="no | clone", absent=True),
    )
    table = table_of(made).markdown().splitlines()
    assert table[2] == (
        "| disk | 64x40 | 0.25 ! | 0.25 (0.2–0.3) ! | 0.5 ! |  | 0.25 ! | 0.263 ! "
        "| 1.50 | – | 0.00 | 1.00 |"
    )
    assert table[3] == "| disk | 64x40 | – |  |  | ~9 (8–10) |  |  |  |  |  | 1.00 |"
    assert table[4].startswith("| gone | 64x40 | not here: no \\| clone |")
    assert table[6].startswith("~ projected")
    assert table[8].startswith("! noisy: other programs")
    assert table[10] == "disk: a disk is no network."


def test_means_and_spread_encodes_are_in_the_table_if_their_samples_are_known() -> None:
    """Clicks of 0.1, 0.1 and 0.4 s, and an encode of 2 s."""
    clicks = Timing(0.1, 0.1, 0.4, 3, 0, 0.0, False, (0.1, 0.1, 0.4))
    encode = Timing(2.0, 2.0, 2.0, 1, 0, 0.0, False, (2.0,))
    figure = Figure(seconds=0.1, low_s=0.1, high_s=0.4, clicks=3, timing=clicks)
    table = table_of(result(row(encode=encode, figures={Definition.CLICK: figure}))).markdown()
    heading, _, line, *notes = table.splitlines()
    cells = dict(zip(heading.split(" | "), line.split(" | "), strict=True))
    assert (cells["online, s/click"], cells["20-SPC, s/click"]) == ("0.2", "0.3")
    assert cells["click, s/click"].startswith("0.1")
    assert "the mean of the same clicks" in "\n".join(notes)


@pytest.mark.usefixtures("quiet")
def test_the_command_writes_its_file_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "spc.json"
    weights = tmp_path / "disk.pth"
    weights.write_bytes(b"")
    contestant = "support.disk_contestant:open_disk"
    argv = ["bench", "spc", "-c", contestant, "--weights", f"{contestant}={weights}"]
    argv += ["--size", "64x40", "--repeats", "1", "--clicks", "2", "--loop-clicks", "2"]
    assert main([*argv, "--patience", "1", "--threads", "1", "-o", str(output)]) == 0
    said = capsys.readouterr()
    assert "| disk | 64x40 |" in said.out
    assert "written to" in said.err
    found = read_result(output)
    assert found.settings["pictures"] == ["64x40"]
    assert found.settings["work"]["clicks"] == 2
    assert found.machine["allocator"]["MALLOC_MMAP_MAX_"] == "0"
    assert found.rows[0].identity is not None
    assert found.rows[0].identity.weights == "disk.pth"


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("command", ["spc", "sat"])
def test_a_run_that_measured_nothing_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    output = tmp_path / "result.json"
    argv = ["bench", command, "--size", "64x40", "--threads", "1", "-o", str(output), "--json"]
    for way in ("without_code", "with_a_defect"):
        argv += ["-c", f"support.disk_contestant:open_{way}"]
    assert main(argv) == 1
    said = capsys.readouterr()
    assert len(json.loads(said.out)["rows"]) == len(read_result(output).rows) == 2
    assert said.err.endswith("nothing was measured; each row gives the reason\n")


def test_an_interruption_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupted)
    assert main(["bench", "spc", "-c", "a:b", "-o", str(tmp_path / "x.json")]) == 130
    assert "with --resume to continue in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-c", "nobody"], "got the contestant 'nobody'"),
        (["--size", "big"], "got the size 'big'"),
        (["--device", "tpu"], "expected cpu or cuda"),
        (["-c", "sam", "--checkout", "segnext"], "expected PEER=PATH"),
        (["-c", "sam", "--checkout", "segnext=."], "expected one of sam"),
        (["-c", "sam", "--checkout", "sam=nowhere"], "there is no folder at nowhere"),
        (
            ["-c", "sam", "--weights", "sam=nothing.pth"],
            "there is no file or folder at nothing.pth",
        ),
        (["--checkpoint", "nothing.safetensors"], "no checkpoint at nothing.safetensors"),
        (["--network", "vitz"], "vitz"),
        (["-o", "x.txt"], "expected a name that ends in .json"),
        (["-o", "no/such/x.json"], "does not exist"),
    ],
)
def test_a_mistake_is_reported_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "run", lambda *_args, **_options: pytest.fail("it ran"))
    assert main(["bench", "spc", "-o", "x.json", *options]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_child_processes_do_not_count_as_other_programs() -> None:
    """A server is measured through its client, so its work counts as our own."""
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    before = timing._children_seconds(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert timing._children_seconds(os.getpid()) - before >= 0.25
        child.communicate(b"\n")


def test_masks_of_the_disk_are_disks(disk: Disk) -> None:
    disk.set_image(photograph(64, 40))
    mask = disk.click([Click(32, 20), Click(32, 20, False)])
    assert mask.shape == (40, 64)
    assert not mask.any()
