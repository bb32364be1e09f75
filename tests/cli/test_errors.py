"""Errors are one message and an exit code, not a traceback."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ois_cli import main as module
from ois_cli.main import main
from ois_client.contract.errors import InvalidClick


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """`ois doctor` raises the exception that a test puts into this list."""
    raised: list[BaseException] = []

    def fail() -> None:
        raise raised[0]

    monkeypatch.setattr("ois_cli.doctor.examine", fail)
    return raised


def test_a_typed_error_is_one_line_with_its_code(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(InvalidClick("got [cpu] where x,y was expected"))
    assert main(["doctor"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: got [cpu] where x,y was expected (INVALID_CLICK)\n"


def test_with_json_the_error_is_json(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(InvalidClick("wrong"))
    assert main(["doctor", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"code": "INVALID_CLICK", "message": "wrong"}}
    assert "wrong" in err


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), 2, "OUTPUT_ERROR"),
        (MemoryError(), 2, "OIS_ERROR"),
        (KeyboardInterrupt(), 130, None),
        (ZeroDivisionError("division by zero"), 1, "INTERNAL"),
    ],
)
def test_errors_of_the_system_are_explained(
    failing: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    code: str | None,
) -> None:
    failing.append(error)
    assert main(["doctor"]) == status
    err = capsys.readouterr().err
    assert "Traceback" not in err
    if code is not None:
        assert f"({code})" in err


@pytest.mark.parametrize("argv", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_debug_shows_the_traceback_anywhere_on_the_line(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    failing.append(InvalidClick("wrong"))
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: wrong (INVALID_CLICK)\n")


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--jsno", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "USAGE"
    assert "--jsno" in err


COMMANDS = (
    *("annotate", "build", "demo", "encode", "export", "lint", "segment", "serve", "train"),
    *("checkpoint inspect", "checkpoint convert", "checkpoint assemble"),
)


@pytest.mark.parametrize("command", ["doctor", "label", "bench", "checkpoint"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"Usage: ois {command} " in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Usage: ois {command} " in shown
    assert f"Example: ois {command} " in shown


def test_the_process_exits_with_the_code(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ois_cli.main", "segment", str(tmp_path / "none.jpg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == module.EXIT_ERROR
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["ablation", "switched-off"])
def test_a_default_that_only_a_checkout_has_is_said(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    installed = tmp_path / "site-packages" / "ois_cli" / "bench" / "ablation.py"
    monkeypatch.setattr("ois_cli.bench.ablation.__file__", str(installed))
    output = str(tmp_path / "out.json")
    assert main(["bench", command, "--output", output]) == 2
    assert f"ois bench {command} ois-photo" in capsys.readouterr().err
