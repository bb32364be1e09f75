"""`ois bench quality`: clicks of the robot, failures, resumed runs, comparisons, and the table."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ois_benchmarks.quality.datasets import Dataset, Item, Target, open_dataset
from ois_benchmarks.quality.order import Order
from ois_benchmarks.quality.records import Log, LogWriter, Measured, read_log
from ois_benchmarks.quality.result import check_comparable, compare, result
from ois_benchmarks.quality.run import (
    MOST_FAILURES,
    Progress,
    default_output,
    header,
    measure,
    open_client,
    run,
)
from ois_benchmarks.quality.table import read_published, summary_markdown
from ois_cli.bench.worst import _part, worst_picture
from ois_cli.main import main
from ois_client.contract.errors import (
    DeadlineExceeded,
    EngineError,
    IncompatibleServer,
    InvalidInput,
    OISError,
)
from ois_client.contract.images import Picture
from ois_client.contract.transport import ClickReply, ClickRequest, EncodeReply, ModelInfo
from ois_client.sessions.client import Client
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_network.training.data.collections import SkippedPair
from ois_network.training.evaluate import held_out, robot_session, torch_predictor
from ois_runtime.engines.local import open_transport
from support.network_scenes import micro
from support.tiny_engines import write_engines


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines whose mask is a disk around the clicks, so IoUs are neither 0 nor 1."""
    return write_engines(tmp_path_factory.mktemp("engines"), trained=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "micro.safetensors"
    save_checkpoint(micro(), path, trained=False)
    return path


def disks(count: int = 4) -> Dataset:
    """Bright disks of growing radius on black. The third pair is unusable."""

    def items() -> Iterator[Item]:
        for number in range(count):
            yield Item(f"disk-{number}", lambda number=number: load(number))  # type: ignore[misc]

    def load(number: int) -> Target:
        if number == 2:
            raise SkippedPair("empty mask", "mask 2 marks no object")
        y, x = np.mgrid[:56, :112]
        mask = np.hypot(x - 40 - number, y - 28) < 14 + 3 * number
        return Target(np.repeat(255 * mask[..., None], 3, axis=2).astype(np.uint8), mask)

    return Dataset("disks", "disks", count, "1", items)


class Faulty:
    """A real transport that fails on demand."""

    def __init__(self, engines: Path) -> None:
        self.inner = open_transport(str(engines))
        self.fail_at: set[int] = set()  # numbers of clicks since the transport was opened
        self.encode_fails = False
        self.answered = ""
        self.model_sha256 = self.inner.info().model_sha256
        self.count = 0

    def info(self) -> ModelInfo:
        return replace(self.inner.info(), model_sha256=self.model_sha256)

    def encode(self, picture: object) -> EncodeReply:
        if self.encode_fails:
            raise DeadlineExceeded("the image took too long")
        return self.inner.encode(picture)  # type: ignore[arg-type]

    def click(self, request: ClickRequest, picture: Picture | None = None) -> ClickReply:
        self.count += 1
        if self.count in self.fail_at:
            raise DeadlineExceeded("the click took too long")
        reply = self.inner.click(request, picture)
        return ClickReply(reply.masks, reply.coverage, {}, model_sha256=self.answered)

    def close(self) -> None:
        self.inner.close()


def measured_log(client: Client, dataset: Dataset, path: Path, clicks: int = 5) -> Log:
    with LogWriter(path, header(client, dataset, clicks)) as writer:
        run(client, dataset, writer, lambda _text: None)
        return writer.log


def test_the_unrewritten_network_scores_as_in_training(checkpoint: Path) -> None:
    network = load_checkpoint(checkpoint).network
    scene, chosen = next(held_out(1))
    mask = scene.instances == chosen
    expected = robot_session(mask, torch_predictor(network, scene.image, 112), 4)
    with open_client(f"torch:{checkpoint}") as client:
        record = measure(client, "scene", Target(scene.image, mask), 4)
    assert record.failure is None
    # Coverage is computed at network size here and at image size there, so patches at the
    # boundary differ.
    assert record.ious == pytest.approx(expected, abs=0.02)
    assert record.area == mask.sum()
    assert (record.height, record.width) == mask.shape


def test_every_click_goes_where_the_robot_says(engines: Path) -> None:
    target = next(disks().items()).load()
    with open_client(f"local:{engines}") as client:
        record = measure(client, "disk", target, 3)
    assert record.clicks[0] == (40.0, 28.0, True)  # the deepest point
    # The disk of radius 12 network pixels = 24 image pixels is too large, so the click removes.
    assert record.clicks[1][2] is False
    y, x = np.mgrid[:56, :112]
    drawn = np.hypot(x - 40, y - 28) < 24
    expected = (drawn & target.mask).sum() / (drawn | target.mask).sum()
    assert record.ious[0] == pytest.approx(expected, abs=0.02)
    # A negative click only makes the disk smaller, so its own pixel stays inside.
    assert record.right == (True, False, False)
    assert record.boundary is not None
    assert record.boundary[0][0] == 0  # 10 pixels away
    assert 0 <= record.boundary[0][1] < record.ious[0]


def test_a_failed_click_is_counted_and_the_mask_before_it_is_kept(
    engines: Path, tmp_path: Path
) -> None:
    faulty = Faulty(engines)
    faulty.fail_at = {3, 4}  # the third click of the first object, the first of the second
    with Client(faulty) as client:
        log = measured_log(client, disks(), tmp_path / "a.jsonl")
    first, second, last = (log.measured[f"disk-{k}"] for k in (0, 1, 3))
    assert first.failure is not None
    assert (first.failure.click, first.failure.code) == (3, "DEADLINE_EXCEEDED")
    assert log.ious()[0].tolist() == [*first.ious, *[first.ious[-1]] * 3]
    assert second.held_ious(5) == [0.0] * 5
    assert len(last.ious) == 5
    document = result(log, disks())
    assert [entry["name"] for entry in document["failed"]] == ["disk-0", "disk-1"]
    assert document["skipped"] == [{"name": "disk-2", "reason": "empty mask"}]
    assert document["objects"] == 3


def test_an_image_that_cannot_be_opened_is_a_failure_before_the_first_click(engines: Path) -> None:
    faulty = Faulty(engines)
    faulty.encode_fails = True
    with Client(faulty) as client:
        record = measure(client, "disk", next(disks().items()).load(), 5)
    assert record.failure is not None
    assert record.failure.click == 0
    assert record.held_ious(5) == [0.0] * 5


def test_a_run_in_which_everything_fails_is_stopped(engines: Path, tmp_path: Path) -> None:
    def items() -> Iterator[Item]:
        for number in range(100):
            yield Item(f"disk-{number}", next(disks().items()).load)

    faulty = Faulty(engines)
    faulty.encode_fails = True
    many = Dataset("many", "many", 100, "1", items)
    with Client(faulty) as client, pytest.raises(OISError, match="in a row") as caught:
        measured_log(client, many, tmp_path / "a.jsonl")
    assert "took too long" in str(caught.value)
    assert len(read_log(tmp_path / "a.jsonl").records) == MOST_FAILURES


@pytest.mark.parametrize("since", ["a click", "an image"])
def test_a_model_that_is_replaced_during_the_run_ends_it(
    engines: Path, tmp_path: Path, since: str
) -> None:
    faulty = Faulty(engines)
    with Client(faulty) as client:
        faulty.answered = "b" * 64
        if since == "an image":  # a new session gets the new model from its start
            faulty.model_sha256 = faulty.answered
        with pytest.raises(IncompatibleServer, match="model"):
            measured_log(client, disks(), tmp_path / "a.jsonl")
    assert not read_log(tmp_path / "a.jsonl").records


def test_an_interrupted_run_is_resumed(engines: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    with open_client(f"local:{engines}") as client:
        measured_log(client, disks(), whole)
        faulty = Faulty(engines)
        faulty.fail_at = {7}
        with Client(faulty) as broken:
            measured_log(broken, disks(), parts)
        parts.write_text("".join(parts.read_text().splitlines(keepends=True)[:3]) + '{"na')
        said: list[str] = []
        with LogWriter(parts, header(client, disks(), 5)) as writer:
            run(client, disks(), writer, said.append)
    assert "holds 1 of 4 objects" in said[0]
    assert read_log(parts).ious().tolist() == read_log(whole).ious().tolist()


def test_two_runs_are_compared_object_by_object(engines: Path, tmp_path: Path) -> None:
    with open_client(f"local:{engines}") as client:
        log = measured_log(client, disks(), tmp_path / "a.jsonl")
    faulty = Faulty(engines)
    faulty.fail_at = {1}
    with Client(faulty) as client:
        other = measured_log(client, disks(), tmp_path / "b.jsonl")
    compared = compare(log, other)
    gained = log.measured["disk-0"].ious[0]
    assert compared["difference"]["metrics"]["miou1"]["value"] == pytest.approx(gained / 3)
    assert compared["other"]["metrics"]["miou1"]["value"] == pytest.approx(
        other.ious()[:, 0].mean()
    )
    assert compared["in_one_run_only"] == []
    assert compare(log, log)["difference"]["curve"][0] == {"value": 0, "low": 0, "high": 0}


def test_other_objects_are_not_compared(engines: Path, tmp_path: Path) -> None:
    with open_client(f"local:{engines}") as client:
        log = measured_log(client, disks(), tmp_path / "a.jsonl")
    check_comparable(disks(), 5, log)
    with pytest.raises(InvalidInput, match="only runs on the same objects"):
        check_comparable(disks(), 6, log)
    with pytest.raises(InvalidInput, match="only runs on the same objects"):
        check_comparable(disks(5), 5, log)
    changed = {
        name: Measured(name, r.width, r.height, r.area + 1, r.ious, r.clicks, r.seconds)
        for name, r in log.measured.items()
    }
    with pytest.raises(InvalidInput, match="other targets"):
        compare(log, Log(log.path, log.header, changed))
    with pytest.raises(InvalidInput, match="no measured object in common"):
        compare(log, Log(log.path, log.header, {}))


def test_a_log_without_measured_objects_is_rejected(engines: Path, tmp_path: Path) -> None:
    with open_client(f"local:{engines}") as client:
        log = Log(tmp_path / "a.jsonl", header(client, disks(), 5), {})
    with pytest.raises(InvalidInput, match="no object of disks"):
        result(log, disks())


def test_progress_is_printed_every_few_seconds_and_at_the_end() -> None:
    now = [0.0]
    said: list[str] = []
    progress = Progress(4, said.append, clock=lambda: now[0])
    for seconds, ious in ((4.0, (0.5, 0.9)), (8.0, (0.7, 0.7)), (10.0, ()), (20.0, None)):
        now[0] = seconds
        progress.step(None if ious is None else Measured("a", 1, 1, 1, ious, (), 1.0))
    assert said == [
        "2/4  mean IoU 0.600 after the first click, 0.800 after the last  4.00 s/object  left 0:08",
        "4/4  mean IoU 0.400 after the first click, 0.533 after the last  5.00 s/object  left 0:00",
    ]


def document(**changes: object) -> dict[str, object]:
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    clicks = {"value": 3.5, "low": 3.0, "high": 4.0}
    metrics = {"noc90": clicks, "nof95_segnext": {**clicks, "value": 7.0}, "miou1": estimate}
    return {
        "dataset": {"name": "DAVIS345", "without_partner": {"mask without image": 2}},
        "objects": 9,
        "protocol": {"clicks": 20},
        "model": {"network": "a|b", "engine": "x", "sha256": "0" * 64, "trained": True},
        "measured_on": {"cpu": "C", "cores": 2, "date": "2026-01-01T00:00", "commit": None},
        "metrics": metrics,
        "curve": [estimate, estimate],
        "failed": [],
        "skipped": [{"name": "s", "reason": "empty mask"}],
        **changes,
    }


def test_the_table_gives_iou_in_percent_clicks_and_whole_objects() -> None:
    lines = summary_markdown(document()).splitlines()
    assert lines[2] == "| method | NoC90 ↓ | NoF95 (SegNext) ↓ | 1-mIoU ↑ |"
    assert lines[4] == ("| a\\|b, x | 3.50 (3.00 to 4.00) | 7 (3 to 4) | 50.00 (25.00 to 75.00) |")
    assert "- 1 objects skipped" in lines
    assert "- 2 x mask without image" in lines
    assert "random" not in "\n".join(lines)


def test_published_results_are_listed_below_ours_and_marked(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = [
        {"method": "Other", "dataset": "DAVIS345", "noc90": 1.25, "miou1": 0.125},
        {"method": "Elsewhere", "dataset": "HQSeg44K val", "noc90": 1},
    ]
    path.write_text(json.dumps(rows))
    table = summary_markdown(document(), read_published(path))
    assert "| Other (published) | 1.25 |  | 12.50 |" in table.splitlines()
    assert "Elsewhere" not in table
    assert "No published result is about DAVIS345." in summary_markdown(document(), [])


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "{}",
        "[1]",
        '[{"method": "a"}]',
        '[{"method": "a", "dataset": "b", "noc": 1}]',
        '[{"method": "a", "dataset": "b", "noc90": "1"}]',
        '[{"method": 1, "dataset": "b"}]',
    ],
)
def test_malformed_published_results_are_rejected(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=r"rows\.json"):
        read_published(path)


@pytest.mark.parametrize("options", [{"backend": "openvino"}, {"precision": "bf16"}])
def test_the_network_itself_takes_no_backend(checkpoint: Path, options: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="only the option threads"):
        open_client(f"torch:{checkpoint}", **options)
    with pytest.raises(InvalidInput, match="no checkpoint"):
        open_client("torch:")


def test_a_default_name_tells_data_network_and_engine_apart(
    engines: Path, checkpoint: Path, tmp_path: Path
) -> None:
    scenes = open_dataset("scenes:3")
    with open_client(f"local:{engines}") as client:
        name = default_output(client, scenes, tmp_path).name
    assert name == "quality-scenes3-tiny-test-onnxruntime-fp32.jsonl"
    with open_client(f"torch:{checkpoint}") as client:
        name = default_output(client, scenes, tmp_path).name
    assert name == "quality-scenes3-micro-torch-fp32-unrewritten.jsonl"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for folder in ("img", "gt"):
        (tmp_path / folder).mkdir()
    for number, item in enumerate(disks(2).items()):
        target = item.load()
        Image.fromarray(target.image).save(tmp_path / "img" / f"{number}.png")
        Image.fromarray(target.mask).save(tmp_path / "gt" / f"{number}.png")
    return tmp_path


def test_the_command_writes_log_result_table_and_picture(
    engines: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = pairs / "first.jsonl", pairs / "second.jsonl"
    argv = ["bench", "quality", f"local:{engines}", "--data", f"davis:{pairs}", "--clicks", "3"]
    assert main([*argv, "-o", str(first)]) == 0
    out, err = capsys.readouterr()
    assert out == (pairs / "first.md").read_text()
    assert "| tiny-test, onnxruntime" in out
    assert "5-mIoU" not in out  # not defined for three clicks
    assert "2/2  mean IoU" in err
    assert main([*argv, "-o", str(second), "--compare", str(first), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((pairs / "second.json").read_text())
    assert printed["compared"]["difference"]["metrics"]["noc90"]["value"] == 0
    assert printed["model"]["sha256"] == open_transport(str(engines)).info().model_sha256
    assert printed["measured_on"]["versions"]["numpy"] == np.__version__
    assert (printed["objects"], printed["images"]) == (2, 2)
    held = [one.right for one in read_log(second).measured.values()]
    later = [each for right in held if right is not None for each in right[1:]]
    assert printed["clicks"]["right"]["value"] == pytest.approx(np.mean(later))
    assert len(printed["boundary"]["2 px"]) == 3
    assert [one["name"] for one in printed["worst"]] == ["0", "1"]
    assert [one["thinness"] for one in printed["worst"]] == pytest.approx([1, 1], abs=0.05)
    assert printed["pictures"] == "second-worst.jpg"
    with Image.open(pairs / "second-worst.jpg") as drawn:  # two rows: true mask, one click
        assert drawn.format == "JPEG"
        assert drawn.size == (12 + 2 * 232, 12 + 2 * (30 + 110 + 12))
    assert "pixel right, %: negative" in out
    assert "within 2 px: 3 clicks" in out
    assert "| 2 to 10 % |" in out or "| above 10 % |" in out
    picture = ElementTree.parse(pairs / "second.svg").getroot()
    texts = [text.text or "" for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert len([text for text in texts if text.startswith("tiny-test, onnxruntime")]) == 2


def test_the_worst_objects_are_drawn_as_far_as_their_clicks_succeed(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_client(f"local:{engines}") as client:
        log = measured_log(client, disks(), tmp_path / "a.jsonl")
        document = result(log, disks(), order=Order.AREA)
        whole = worst_picture(client, disks(), log, document)
    assert document["worst_order"] == "area"
    assert [one["name"] for one in document["worst"]] == ["disk-0", "disk-1", "disk-3"]
    faulty = Faulty(engines)
    faulty.fail_at = {8}  # the third click of the second object
    with Client(faulty) as client:
        parts = worst_picture(client, disks(), log, document)
    assert "disk-1 is not drawn whole: the click took too long" in capsys.readouterr().err
    assert whole is not None
    assert parts is not None
    first, second = (np.asarray(Image.open(io.BytesIO(data))) for data in (whole, parts))
    assert first.shape == second.shape == (12 + 3 * (30 + 110 + 12), 12 + 3 * 232, 3)
    rows = np.abs(first.astype(int) - second).max((1, 2)) > 60
    changed = np.flatnonzero(rows)  # the title and the panel of five clicks, in the second row
    assert 12 + 152 <= changed.min() < changed.max() < 12 + 2 * 152
    assert (np.abs(first.astype(int) - second).max(2)[:, : 2 * 232] < 60).all()


def test_small_objects_are_drawn_enlarged_in_the_proportions_of_the_image() -> None:
    mask = np.zeros((200, 400), dtype=bool)
    mask[100:120, 10:20] = True
    rows, columns = _part(mask)
    assert (rows, columns) == (slice(90, 130), slice(0, 80))  # a fifth, moved into the image
    mask[199, 399] = True
    assert _part(mask) == (slice(0, 200), slice(0, 400))
    dot = np.zeros((200, 400), dtype=bool)
    dot[199, 200] = True
    assert _part(dot) == (slice(170, 200), slice(170, 230))


def test_an_interruption_says_how_to_resume(engines: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    argv = [f"local:{engines}", "--data", "scenes:100000", "-o", str(path)]
    command = [sys.executable, "-m", "ois_cli.main", "bench", "quality", *argv]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + 120
            while not (path.exists() and path.read_bytes().count(b"\n") > 1):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "run the same command to resume" in err
    assert "Traceback" not in err
    assert read_log(path).measured


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--data", "coco"], "INVALID_INPUT"),
        (["-o", "run.json"], "INVALID_INPUT"),
        (["-o", "no/such/run.jsonl"], "OUTPUT_ERROR"),
        (["--compare", "missing.jsonl"], "INVALID_INPUT"),
        (["--published", "missing.json"], "INVALID_INPUT"),
        (["--clicks", "25"], "USAGE"),
        (["--backend", "abacus"], "INVALID_INPUT"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_measured(
    engines: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["bench", "quality", f"local:{engines}", "--data", "scenes:1", "-o", "a.jsonl"]
    assert main([*argv, *options, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert list(tmp_path.iterdir()) == []


def test_a_peer_is_measured_by_the_same_robot() -> None:
    """`support.disk_contestant` draws a disk of 20 pixels around each click."""
    with open_client("peer:support.disk_contestant:open_disk") as client:
        assert not client.info.trained
        mask = np.zeros((60, 80), dtype=bool)
        ys, xs = np.mgrid[:60, :80]
        mask[(ys - 30) ** 2 + (xs - 40) ** 2 <= 20**2] = True
        record = measure(client, "disk", Target(np.zeros((60, 80, 3), np.uint8), mask), 1)
    assert record.failure is None
    assert record.clicks == ((40.0, 30.0, True),)
    assert record.ious[0] > 0.95


def test_a_peer_s_code_that_fails_is_a_failed_object_and_the_run_goes_on(tmp_path: Path) -> None:
    with open_client("peer:support.disk_contestant:open_faulty") as client:
        log = measured_log(client, disks(), tmp_path / "a.jsonl")
    assert [name for name, one in log.measured.items() if one.failure] == list(log.measured)
    failure = log.measured["disk-0"].failure
    assert failure is not None
    assert (failure.click, failure.code) == (3, "ENGINE_ERROR")
    assert failure.message == ("the code of disk failed: IndexError: click 3 in the peer's code")
    assert len(log.measured["disk-0"].ious) == 2
    with pytest.raises(EngineError, match="ZeroDivisionError: in the peer's code"):
        open_client("peer:support.disk_contestant:open_with_a_defect")


def test_a_run_with_zoom_is_another_run(engines: Path, tmp_path: Path) -> None:
    dataset = disks()
    with open_client(f"local:{engines}", zoom=True) as client:
        head = header(client, dataset, 5)
        assert default_output(client, dataset, tmp_path).stem.endswith("-zoom")
        path = tmp_path / "log.jsonl"
        with LogWriter(path, head) as writer:
            run(client, dataset, writer, print)
    assert ", zoom |" in summary_markdown(result(read_log(path), dataset))
    with open_client(f"local:{engines}") as client:
        assert "zoom" not in header(client, dataset, 5)["model"]
        with pytest.raises(InvalidInput, match="holds another run"):
            LogWriter(path, header(client, dataset, 5))


def test_sessions_of_the_benchmark_zoom(engines: Path) -> None:
    with open_client(f"local:{engines}", zoom=True) as client:
        session = client.open(np.zeros((900, 1200, 3), np.uint8))
        for n in range(5):  # the negative ones make the mask smaller
            session.click(600, 450, n == 0)
        assert session.window() is not None


def test_only_a_peer_takes_the_options_of_a_peer(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="only peer:NAME takes them"):
        open_client("local:", weights=tmp_path / "sam.pth")
    with pytest.raises(InvalidInput, match="sets both"):
        open_client("peer:sam-vitb", precision="bf16")
    with pytest.raises(InvalidInput, match="with zoom"):
        open_client("peer:sam-vitb", zoom=True)
