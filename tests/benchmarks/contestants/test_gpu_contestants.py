"""OIS on a GPU as a contestant: only what it needs is prepared; what is missing is the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ois_benchmarks.contestants import prepared
from ois_benchmarks.contestants.base import CHECKPOINT, NotHere, Place
from ois_benchmarks.contestants.ois import VARIANTS, write_unloaded_engines
from ois_benchmarks.contestants.prepared import OisEngines
from ois_benchmarks.contestants.registry import CONTESTANTS, choose, open_contestant, wants_export
from ois_cli.main import main
from ois_client.sessions.client import Client
from ois_export.parity.cases import LANDSCAPE
from ois_export.repository import write_repository
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_runtime.engines.local import open_transport
from ois_runtime.engines.manifest import Manifest
from support.network_scenes import MICRO, random_network

GPU = ["ois-torch-cuda", "ois-server-cuda", "ois-tensorrt"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Random weights, and nothing exported."""
    folder = tmp_path / "engines"
    folder.mkdir()
    save_checkpoint(random_network(MICRO, seed=1), folder / CHECKPOINT, trained=False)
    return Place(threads=1, scratch=tmp_path, device="cuda", engines=folder)


def test_gpu_contestants_need_no_export() -> None:
    assert {name for name, variant in VARIANTS.items() if variant.gpu} == set(GPU)
    assert not any(wants_export(name) for name in [*GPU, "ois-torch", "segnext-sax2", "my:own"])
    assert wants_export("ois-onnxruntime")
    assert set(GPU) <= set(CONTESTANTS)
    assert set(GPU) <= set(choose(["ois"]))


def test_graphs_are_exported_once_and_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str | None, bool]] = []

    def prepare(
        folder: Path, _network: str, checkpoint: Path | None, _say: Any, *, exported: bool, **_: Any
    ) -> None:
        (folder / CHECKPOINT).touch()
        made.append((checkpoint and checkpoint.name, exported))

    monkeypatch.setattr(prepared, "prepare", prepare)
    with OisEngines("vitb", None, print) as engines:
        folder = engines.folder(exported=False)
        assert made == [(None, False)]
        assert engines.folder(exported=False) == folder
        assert engines.folder(exported=True) == engines.folder(exported=True) == folder
    # The exported graphs have the weights that the others were measured with.
    assert made == [(None, False), (CHECKPOINT, True)]
    assert not folder.exists()


def test_a_checkpoint_alone_needs_no_exporter(tmp_path: Path) -> None:
    prepared.write_network(tmp_path, "tiny", None, exported=False)
    assert [each.name for each in tmp_path.iterdir()] == [CHECKPOINT]
    assert not load_checkpoint(tmp_path / CHECKPOINT).trained
    before = (tmp_path / CHECKPOINT).read_bytes()
    prepared.write_network(tmp_path, "tiny", tmp_path / CHECKPOINT, exported=False)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", GPU)
def test_without_a_gpu_they_are_absent_and_say_why(place: Place, name: str) -> None:
    with pytest.raises(NotHere, match=r"CUDA|GPU|TensorRT engines"):
        open_contestant(name, place)
    with pytest.raises(NotHere, match="measure it with --device cuda"):
        open_contestant(name, Place(threads=1, scratch=place.scratch, engines=place.engines))


def test_tensorrt_uses_the_only_folder_of_plans(place: Place, tmp_path: Path) -> None:
    plans = tmp_path / "plans"
    for name in ("H100-sm90-a", "H200-sm90-b"):
        write_unloaded_engines(plans / name, place.engines / CHECKPOINT)  # type: ignore[operator]
    both = replace(place, plans=plans)
    with pytest.raises(NotHere, match=r"got 2 built engines .*H100-sm90-a, H200-sm90-b"):
        open_contestant("ois-tensorrt", both)
    one = replace(place, plans=plans / "H100-sm90-a")
    with pytest.raises(NotHere, match=r"encoder.onnx is not a TensorRT plan|driver|cuda"):
        open_contestant("ois-tensorrt", one)


def test_plans_must_be_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "spc", "-c", "ois-tensorrt", "--plans", str(tmp_path / "none")]
    assert main([*words, "-o", str(tmp_path / "spc.json")]) == 2
    assert "expected the folder that `ois build` wrote" in capsys.readouterr().err


def test_a_server_that_runs_the_checkpoint_needs_no_engines(place: Place, tmp_path: Path) -> None:
    """The server of `ois-server-cuda`, on the CPU."""
    pytest.importorskip("pytriton", reason="the embedded server is not installed")
    from ois_runtime.embedded.options import ServerOptions
    from ois_runtime.embedded.server import EmbeddedServer

    checkpoint = place.engines / CHECKPOINT  # type: ignore[operator]
    folder = write_unloaded_engines(tmp_path / "repository", checkpoint)
    write_repository(folder, Manifest.load(folder))
    picture = LANDSCAPE.pixels()
    with Client(open_transport(str(checkpoint))) as client:
        wanted = client.open(picture).click(300, 200)
    options = ServerOptions(device="cpu", checkpoint=checkpoint, cache_bytes=2**24)
    with EmbeddedServer(folder, options) as server, Client(server.grpc_url) as client:
        assert (client.open(picture).click(300, 200) != wanted).mean() < 1e-3
        assert "cpu fp32" in client.info.engine
    assert 0 < np.mean(wanted) < 1
