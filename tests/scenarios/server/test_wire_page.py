"""The examples of docs/wire.md give the masks of `Client`: tritonclient in Python, and curl."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ois_client import Click, Client
from ois_client.contract.images import load_image
from ois_client.contract.masks import mask_of_coco, mask_of_png
from ois_client.wire import INPUTS
from ois_runtime.embedded.server import EmbeddedServer
from support.documents import ROOT, blocks

PAGE = ROOT / "docs" / "wire.md"
CLICKS = [Click(300, 200), Click(40, 40, positive=False)]


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """photo.jpg in the working folder, an image that no other test sends."""
    noise = np.random.default_rng(31).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((400, 300)).save(file, format="JPEG")
    (tmp_path / "photo.jpg").write_bytes(file.getvalue())
    monkeypatch.chdir(tmp_path)
    return file.getvalue()


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    with Client(server.grpc_url) as connected:
        yield connected


def sources(language: str, server: EmbeddedServer) -> list[str]:
    return [
        block.text.replace("http://127.0.0.1:8000", server.http_url).replace(
            "127.0.0.1:8001", server.grpc_url.removeprefix("grpc://")
        )
        for block in blocks(PAGE)
        if block.language == language
    ]


def as_array(name: str, tensor: dict[str, Any]) -> np.ndarray:
    """A tensor of perf_analyzer's JSON."""
    content = [v.encode() if isinstance(v, str) else v for v in tensor["content"]]
    return np.array(content, INPUTS[name].dtype).reshape(tensor["shape"])


def test_tritonclient(server: EmbeddedServer, client: Client, photo: bytes, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for source in sources("python", server):
        exec(source, names)
    session = client.open(photo)
    session.click(300, 200)
    np.testing.assert_array_equal(names["mask"], session.click(40, 40, positive=False))
    assert 0 < names["mask"].mean() < 1
    twice = client.segment(photo, [CLICKS, [Click(120, 90)]])
    np.testing.assert_array_equal(names["masks"], twice.masks)
    assert (twice.masks[0] != twice.masks[1]).any()
    for model, name in (("ois_segment", "click"), ("ois_oneshot", "oneshot")):  # perf_analyzer's
        given = json.loads((tmp_path / f"{name}.json").read_text())["data"][0]
        arrays = {n: as_array(n, tensor) for n, tensor in given.items()}
        (mask,) = names["masks_of"](names["infer"](model, **arrays))
        np.testing.assert_array_equal(mask, twice.masks[0])


def test_curl(server: EmbeddedServer, client: Client, photo: bytes, tmp_path: Path) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl and bash are not installed")
    printed, *rest = [
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", source], capture_output=True, text=True, check=True
        ).stdout
        for source in sources("bash", server)
    ]
    assert printed.strip() == load_image(photo).digest
    assert rest == ["", ""]
    png = mask_of_png((tmp_path / "mask.png").read_bytes())
    np.testing.assert_array_equal(png, client.segment(photo, CLICKS).masks[0])
    reply = json.loads((tmp_path / "reply.json").read_text())
    (masks,) = [output["data"] for output in reply["outputs"] if output["name"] == "MASKS"]
    coco = mask_of_coco(json.loads(bytes(masks)))
    np.testing.assert_array_equal(coco, client.segment(photo, CLICKS[:1]).masks[0])
