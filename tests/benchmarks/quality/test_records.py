"""A quality log survives interruptions, rejects other files, and names damaged lines."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from ois_benchmarks.quality.records import Failure, LogWriter, Measured, Skipped, read_log
from ois_client.contract.errors import InvalidInput, OutputError

HEADER = {"dataset": {"name": "d", "objects": 3}, "clicks": 4, "model": {"sha256": "a"}}


def measured(name: str, *ious: float, failure: Failure | None = None) -> Measured:
    clicks = tuple((float(k), 2.5, k % 2 == 0) for k in range(len(ious)))
    return Measured(name, 30, 20, 77, ious, clicks, 0.25, failure)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "run.jsonl"


def test_what_is_written_is_read_back(path: Path) -> None:
    records = [
        measured("a", 0.1, 1 / 3, 0.9, 0.95),
        Skipped("b", "empty mask"),
        measured("c", 0.5, failure=Failure(2, "DEADLINE_EXCEEDED", "too late")),
    ]
    with LogWriter(path, HEADER) as writer:
        for record in records:
            writer.append(record)
        assert list(writer.log.records.values()) == records
    log = read_log(path)
    assert list(log.records.values()) == records
    assert (log.clicks, log.header["model"]) == (4, {"sha256": "a"})
    assert log.skipped == [records[1]]


def test_a_log_of_an_earlier_version_lacks_what_it_did_not_measure(path: Path) -> None:
    new = replace(
        measured("a", 0.5, 0.6), picture="p.jpg", right=(True, False),
        boundary=((0.1, 0.2), (0.3, 0.4)),
    )  # fmt: skip
    with LogWriter(path, HEADER) as writer:
        writer.append(new)
    log = read_log(path)
    assert log.measured["a"] == new
    assert new.image == "p.jpg"
    boundary = log.boundary()
    assert boundary is not None
    assert boundary[0].tolist() == [[0.1, 0.2], [0.3, 0.4], [0.3, 0.4], [0.3, 0.4]]
    header, line = path.read_text().splitlines()
    fields = json.loads(line)
    for name in ("picture", "right", "boundary"):
        del fields[name]
    path.write_text(f"{header}\n{json.dumps(fields)}\n")
    old = read_log(path)
    assert old.measured["a"] == measured("a", 0.5, 0.6)
    assert (old.measured["a"].image, old.boundary()) == ("a", None)


def test_a_run_of_an_earlier_version_that_wrote_f32_for_fp32_is_resumed(path: Path) -> None:
    def header(engine: str) -> dict[str, object]:
        return {**HEADER, "model": {"sha256": "a", "engine": engine}}

    with LogWriter(path, header("onnxruntime 1.32.0 f32")) as writer:
        writer.append(measured("a", 0.2, 0.2, 0.2, 0.2))
    with LogWriter(path, header("onnxruntime 1.32.0 fp32")) as writer:
        assert list(writer.log.records) == ["a"]
    with pytest.raises(InvalidInput, match="another run"):
        LogWriter(path, header("onnxruntime 1.32.0 fp16"))


def test_after_a_failed_click_the_last_iou_is_repeated(path: Path) -> None:
    with LogWriter(path, HEADER) as writer:
        writer.append(measured("a", 0.5, 0.6, failure=Failure(3, "X", "")))
        writer.append(measured("b", failure=Failure(0, "X", "")))
        writer.append(Skipped("c", "empty mask"))
    log = read_log(path)
    assert log.ious().tolist() == [[0.5, 0.6, 0.6, 0.6], [0, 0, 0, 0]]
    assert log.ious(["b"]).tolist() == [[0, 0, 0, 0]]


def test_the_same_run_is_resumed_and_a_second_try_counts(path: Path) -> None:
    with LogWriter(path, HEADER) as writer:
        writer.append(measured("a", failure=Failure(0, "X", "")))
        writer.append(measured("b", 0.2, 0.2, 0.2, 0.2))
    with LogWriter(path, {**HEADER, "machine": "another"}) as writer:
        assert list(writer.log.records) == ["a", "b"]
        writer.append(measured("a", 0.9, 0.9, 0.9, 0.9))
    assert read_log(path).ious().tolist() == [[0.9] * 4, [0.2] * 4]


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_that_was_cut_off_is_measured_again(path: Path, cut: int) -> None:
    with LogWriter(path, HEADER) as writer:
        writer.append(measured("a", 0.1, 0.2, 0.3, 0.4))
        writer.append(measured("b", 0.1, 0.2, 0.3, 0.4))
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_log(path).records) == ["a"]
    with LogWriter(path, HEADER) as writer:
        assert list(writer.log.records) == ["a"]
        writer.append(measured("b", 0.5, 0.6, 0.7, 0.8))
    assert list(read_log(path).records) == ["a", "b"]


@pytest.mark.parametrize("kept", [0, 5, 30])
def test_a_header_that_was_cut_off_is_written_again(path: Path, kept: int) -> None:
    with LogWriter(path, HEADER):
        pass
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with LogWriter(path, HEADER):
        pass
    assert path.read_bytes() == whole


@pytest.mark.parametrize("key", ["dataset", "clicks", "model"])
def test_another_run_is_not_mixed_in(path: Path, key: str) -> None:
    with LogWriter(path, HEADER):
        pass
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match=f"its {key} is"):
        LogWriter(path, {**HEADER, key: 7})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["a text\n", "a text", '{"quality_log": 2}\n', "[]\n"])
def test_a_file_of_something_else_is_left_alone(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(InvalidInput, match="not a log"):
        LogWriter(path, HEADER)
    assert path.read_text() == content
    with pytest.raises(InvalidInput, match="not a log"):
        read_log(path)


@pytest.mark.parametrize("line", ["{", '{"name": "a"}', '{"name": "a", "skipped": "x", "y": 1}'])
def test_a_damaged_line_is_named(path: Path, line: str) -> None:
    with LogWriter(path, HEADER):
        pass
    good = json.dumps({"name": "b", "skipped": "empty mask"})
    path.write_text(path.read_text() + f"{line}\n{good}\n")
    with pytest.raises(InvalidInput, match=r"line 2, is damaged"):
        read_log(path)


def test_two_processes_cannot_write_one_log(path: Path) -> None:
    with LogWriter(path, HEADER), pytest.raises(OutputError, match="another process"):
        LogWriter(path, HEADER)


def test_a_missing_log_is_an_error(path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_log(path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        LogWriter(tmp_path / "file" / "run.jsonl", HEADER)


def test_a_device_is_not_a_log() -> None:
    with pytest.raises(InvalidInput, match="not a log"):
        LogWriter(Path("/dev/zero"), HEADER)


def test_a_full_disk_is_an_error_and_keeps_earlier_records(path: Path) -> None:
    with LogWriter(path, HEADER) as writer:
        writer.append(measured("a", 0.1, 0.2, 0.3, 0.4))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        # From here on the system accepts only a few more bytes, like a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
        try:
            with pytest.raises(OutputError, match="cannot write"):
                writer.append(measured("b", 0.1, 0.2, 0.3, 0.4))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(read_log(path).records) == ["a"]
    with LogWriter(path, HEADER) as writer:
        assert list(writer.log.records) == ["a"]
