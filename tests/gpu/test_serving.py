"""The embedded server with features in GPU memory gives the masks of in-process engines.

Needs a GPU; tests/scenarios/server/test_torch.py has the same tests with the CPU as the device.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ois_client.contract.clicks import Click
from ois_client.sessions.client import Client
from ois_export.export import write_engines
from ois_export.parity.cases import LANDSCAPE
from ois_export.repository import write_repository
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.local import open_transport
from ois_runtime.engines.manifest import Manifest
from support.network_scenes import MICRO, random_network
from support.server.calls import metrics

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(
        importlib.util.find_spec("pytriton") is None, reason="the embedded server is not installed"
    ),
]
CACHE_BYTES = 64 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network's checkpoint and its exported engines, with their repository."""
    folder = tmp_path_factory.mktemp("micro")
    file = folder / "micro.safetensors"
    save_checkpoint(random_network(MICRO, seed=1), file, trained=False)
    write_engines(load_checkpoint(file), folder, name="micro")
    write_repository(folder, Manifest.load(folder))
    return folder


def clicks(client: Client) -> list[NDArray[np.uint8]]:
    """Masks of a session: refined, undone, and of several objects at once."""
    session = client.open(LANDSCAPE.pixels())
    masks = [session.click(300, 200), session.click(120, 80, False)]
    session.undo()
    masks.append(session.click(500, 300))
    asked = {session.new_object(): Click(x, 250) for x in (100, 250, 400)}
    masks += list(session.click_many(asked).values())
    return masks


@pytest.fixture(scope="module")
def wanted(folder: Path) -> Iterator[list[NDArray[np.uint8]]]:
    with Client(open_transport(str(folder))) as client:
        yield clicks(client)


def assert_alike(got: list[NDArray[np.uint8]], want: list[NDArray[np.uint8]]) -> None:
    assert len(got) == len(want)
    assert max((one != other).mean() for one, other in zip(got, want, strict=True)) < 2e-3
    assert 0 < np.mean(want) < 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_network_in_the_servers_process(
    folder: Path, wanted: list[NDArray[np.uint8]], precision: str
) -> None:
    options = ServerOptions(
        device="cuda", precision=precision, checkpoint=folder / "micro.safetensors",
        cache_bytes=CACHE_BYTES,
    )  # fmt: skip
    with Client(
        open_transport(str(folder / "micro.safetensors"), device="cuda", precision=precision)
    ) as client:
        in_process = clicks(client)
    with EmbeddedServer(folder, options) as server, Client(server.grpc_url) as client:
        assert f"cuda:0 {precision}" in client.info.engine
        got = clicks(client)
    assert_alike(got, in_process)
    if precision == "fp32":
        assert_alike(got, wanted)


def test_features_of_tritons_models_in_gpu_memory(
    folder: Path, wanted: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIS_FEATURE_DEVICE", "cuda:0")
    options = ServerOptions(cache_bytes=CACHE_BYTES)
    with EmbeddedServer(folder, options) as server, Client(server.grpc_url) as client:
        assert client.info.engine.endswith("features on cuda:0")
        got = clicks(client)
        time.sleep(1.2)  # until the counters are published
        # At no click was a feature or a logit in the memory of the CPU.
        assert metrics(server)["ois_click_host_bytes_total"] == 0
    assert_alike(got, wanted)
