"""`ois demo` refuses wrong options and serves until a signal."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ois_cli.main import main
from support.demo.calls import ask, encoded, noise, open_image
from support.tiny_engines import write_engines


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--host", "0.0.0.0", "--url", "local:"], "expected a loopback address"),
        (["--url", "grpc://127.0.0.1:9"], "(SERVER_UNAVAILABLE)"),
        (["--url", "ftp://host"], "(INVALID_INPUT)"),
        (["--url", "grpc://h", "--threads", "2"], "got --threads with --url grpc://h"),
        (["--url", "local:x", "--engines", "y"], "got --engines with --url local:x"),
        (["--url", "local:/does/not/exist"], "(ENGINE_ERROR)"),
        (["--backend", "abacus"], "(INVALID_INPUT)"),
        (["--port", "70000"], "(USAGE)"),
        (["--sheet", "x", "--url", "local:"], "got --sheet with --url"),
        (["--sheet", "x", "."], "got --sheet with a folder"),
        (["/does/not/exist", "--url", "local:x"], "is not a folder"),
        ([str(Path(__file__).parent), "--url", "local:x"], "without an image"),
    ],
)
def test_a_wrong_option_is_one_line_on_stderr(
    argv: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = write_engines(tmp_path / "engines") if "--backend" in argv else None
    more = ["--engines", str(engines)] if engines else []
    assert main(["demo", "--no-browser", *argv, *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_serves_until_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    engines = write_engines(tmp_path / "engines")
    command = [sys.executable, "-m", "ois_cli.main", "demo", "--no-browser", "--port", "0"]
    with subprocess.Popen(
        [*command, "--url", "local:", "--engines", str(engines)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        url = lines[0].split()[-1]
        head, _ = open_image(url, encoded(noise(30, 20)))
        assert (head["width"], head["height"]) == (30, 20)
        assert ask(url, "/").status == 200
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert "in this process" in lines[1]
    assert lines[2] == "ready; Ctrl-C stops\n"
    assert process.returncode == 0
    assert err == "stopped\n"
