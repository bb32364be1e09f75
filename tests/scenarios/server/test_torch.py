"""The embedded server with PyTorch: the whole network in one process, or features through DLPack.

These tests use the CPU. On a GPU only the device's name differs (see docs/gpu.md).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import load_image
from ois_client.contract.transport import ClickReply, ClickRequest, Transport
from ois_client.sessions.client import Client
from ois_client.transports.blocking import open_transport
from ois_export.parity.cases import LANDSCAPE
from ois_export.repository import write_repository
from ois_network.checkpoints.checkpoint import save_checkpoint
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines import local
from ois_runtime.engines.manifest import Manifest
from support.network_scenes import MICRO, random_network
from support.server.calls import eventually, metrics
from support.tiny_engines import write_engines

CACHE_BYTES = 16 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of `tiny_engines` with their repository, and the checkpoint that they name."""
    folder = tmp_path_factory.mktemp("micro")
    file = folder / "micro.safetensors"
    digest = save_checkpoint(random_network(MICRO, seed=1), file, trained=False)
    write_engines(folder, checkpoint_sha256=digest)
    write_repository(folder, Manifest.load(folder))
    return folder


def click(transport: Transport) -> ClickReply:
    """A click on three objects of one image, with all optional outputs."""
    picture = load_image(LANDSCAPE.pixels())
    info = transport.info()
    geometry = Geometry.fit(picture.width, picture.height, longest=info.longest, patch=info.patch)
    transport.encode(picture)
    objects = [[Click(100, 90)], [Click(300, 200), Click(20, 20, False)], [Click(500, 300)]]
    points, labels = pack_clicks(objects, picture.width, picture.height)
    rng = np.random.default_rng(0)
    request = ClickRequest(
        picture.digest,
        points,
        labels,
        rng.integers(0, 256, (3, geometry.grid_height, geometry.grid_width), dtype=np.uint8),
        np.array([False, True, True]),
        want_depth=True,
        want_logits=True,
        want_order=True,
    )
    return transport.click(request)


def same(got: ClickReply, want: ClickReply, tolerance: float) -> None:
    for name in ("logits", "depth", "order"):
        mine, theirs = getattr(got, name), getattr(want, name)
        np.testing.assert_allclose(mine, theirs, atol=tolerance * np.abs(theirs).max())
    assert (got.masks != want.masks).mean() <= tolerance
    assert np.abs(got.coverage.astype(int) - want.coverage).max() <= (2 if tolerance else 0)
    assert 0 < want.masks.mean() < 1


def test_the_network_runs_in_the_models_own_process(folder: Path) -> None:
    in_process = local.open_transport(str(folder / "micro.safetensors"))
    wanted = click(in_process)
    options = ServerOptions(device="cpu", cache_bytes=CACHE_BYTES)
    with EmbeddedServer(folder, options) as server:
        assert server.models == ("ois_segment",)
        assert "--load-model=ois_segment" in server.printable_command()
        assert 'OIS_TORCH_DEVICE="cpu"' in server.printable_command()
        transport = open_transport(server.grpc_url)
        info = transport.info()
        assert info.engine == f"torch {torch.__version__} cpu fp32"
        assert info.model_sha256 == in_process.info().model_sha256
        # Not bit for bit: the model's process may use another number of threads, and sums differ.
        same(click(transport), wanted, tolerance=1e-4)
        transport.close()
        with Client(server.http_url) as client:
            session = client.open(LANDSCAPE.pixels())
            mask = session.click(100, 90)
            session.undo()
            np.testing.assert_array_equal(session.click(100, 90), mask)


def test_features_of_tritons_models_stay_on_their_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = click(local.open_transport(str(folder)))
    monkeypatch.setenv("OIS_FEATURE_DEVICE", "cpu")
    with EmbeddedServer(folder, ServerOptions(cache_bytes=CACHE_BYTES)) as server:
        transport = open_transport(server.grpc_url)
        assert transport.info().engine.endswith("features on cpu")
        same(click(transport), wanted, tolerance=1e-4)
        transport.close()
        assert len(server.models) > 1
        # The counter that is 0 on a GPU (tests/gpu/test_serving.py).
        name = "ois_click_host_bytes_total"
        counted = eventually(lambda: metrics(server), lambda now: now.get(name, 0) > 0)
        assert counted[name] > 0


def test_options_that_cannot_be_served_are_refused(folder: Path, tmp_path: Path) -> None:
    for options, kind, text in (
        ({"precision": "fp16"}, InvalidInput, "without a device"),
        ({"device": "gpu"}, InvalidInput, "'gpu'; expected cpu, cuda"),
        ({"device": "cpu", "precision": "int8"}, InvalidInput, "supports fp32, fp16, bf16"),
        ({"device": "cpu", "checkpoint": tmp_path / "none"}, EngineError, "no checkpoint at"),
    ):
        with pytest.raises(kind, match=text):
            EmbeddedServer(folder, ServerOptions(**options))
    other = tmp_path / "other.safetensors"
    save_checkpoint(random_network(MICRO, seed=2), other, trained=False)
    with pytest.raises(EngineError, match="which is not among"):
        EmbeddedServer(folder, ServerOptions(device="cpu", checkpoint=other))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_server_says_so_and_ends(folder: Path) -> None:
    server = EmbeddedServer(folder, ServerOptions(device="cuda", cache_bytes=CACHE_BYTES))
    with pytest.raises(EngineError) as caught:
        server.start()
    message = str(caught.value)
    assert "got the device cuda" in message
    assert "Traceback" not in message
    assert "TritonModelException" not in message
