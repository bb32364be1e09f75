"""`ois bench spc|sat --url`: a running server is measured by the paper's metrics."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ois_benchmarks.latency import run
from ois_cli.main import main
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.tiny_engines import write_engines

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pytriton") is None, reason="nvidia-pytriton is not installed"
)

TOKEN = "a-token"
STAGES = {"queue", "decode", "postprocess", "encode_mask", "rest"}
QUICK = ["--size", "64x40", "--repeats", "1", "--patience", "1", "--threads", "1"]
SAT = ["--clicks", "2", "--full-below", "0", "--batch", "3"]
SPC = ["--clicks", "2", "--loop-clicks", "1"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    from ois_export.repository import write_repository
    from ois_runtime.engines.manifest import Manifest

    folder = write_engines(tmp_path_factory.mktemp("engines"))
    write_repository(folder, Manifest.load(folder))
    with EmbeddedServer(folder, ServerOptions(token=TOKEN)) as running:
        yield running


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "busy_share", lambda: 0.0)
    monkeypatch.setenv("OIS_TOKEN", TOKEN)


def test_sat_of_a_server_over_both_protocols(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sat.json"
    urls = ["--url", server.grpc_url, "--url", server.http_url]
    assert main(["bench", "sat", *urls, *QUICK, *SAT, "-o", str(output)]) == 0
    text = output.read_text()
    assert TOKEN not in text
    result = json.loads(text)
    assert [row["contestant"] for row in result["rows"]] == [server.grpc_url, server.http_url]
    for row in result["rows"]:
        assert set(row["figures"]) == {"sequential", "batched"}
        assert row["encode"]["repeats"] == 1
        assert row["identity"]["weights"] == "random"
        for name, objects in (("sequential", 1), ("batched", 3)):
            figure = row["figures"][name]
            assert (figure["batch"], figure["projected"]) == (objects, True)
            assert set(figure["stages_s"]) == STAGES
            assert all(seconds >= 0 for seconds in figure["stages_s"].values())
    assert f"{server.grpc_url}, 64x40, batched, ms per call of 3: queue" in capsys.readouterr().out


def test_spc_of_a_server(server: EmbeddedServer, tmp_path: Path) -> None:
    output = tmp_path / "spc.json"
    command = ["bench", "spc", "--url", server.grpc_url, *QUICK, *SPC, "-o", str(output)]
    assert main(command) == 0
    (row,) = json.loads(output.read_text())["rows"]
    assert set(row["figures"]) == {"session"}
    assert set(row["figures"]["session"]["stages_s"]) == STAGES
    assert row["identity"]["input_size"] == [56, 42]


def test_a_server_that_does_not_answer_is_a_row_with_the_reason(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sat.json"
    command = ["bench", "sat", *QUICK, *SAT, "-o", str(output)]
    wrong = ["--url", server.grpc_url, "--token", "another"]
    assert main([*command, "--url", "grpc://127.0.0.1:9", *wrong]) == 1
    rows = json.loads(output.read_text())["rows"]
    assert [row["absent"] for row in rows] == [True, True]
    assert "no OIS server answers" in rows[0]["failed"]
    assert "token" in rows[1]["failed"]
    assert "nothing was measured" in capsys.readouterr().err
