"""Annotation tools resend the image with every click; the encoder still runs once per image."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nuclio_sdk
import numpy as np
import pytest
from PIL import Image

import interactor
from ois_client import Client, OISPredictor
from ois_client.formats.brush import mask_of_brush
from ois_client.sam.automatic import OISAutomaticMaskGenerator
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.serving.configuration import ServingOptions
from support.server.calls import statistics
from support.server.players import pixels

ROOT = Path(__file__).resolve().parents[3]
BACKEND = ROOT / "examples" / "label_studio" / "backend.py"
LABEL_CONFIG = (BACKEND.parent / "label_config.xml").read_text()
CLICKS = [(60, 45, True), (5, 5, False), (70, 50, True), (20, 30, True)]


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


@contextmanager
def work_of(server: EmbeddedServer) -> Iterator[dict[str, int]]:
    """Yields a dict that holds, after the block, the inferences per model during the block."""
    before, cost = statistics(server), {}
    yield cost
    after = statistics(server)
    cost.update({name: after[name] - before[name] for name in after})


def masks_of(server: EmbeddedServer, image: bytes) -> list[np.ndarray]:
    """The mask after each of CLICKS, from a session of `Client`."""
    with Client(server.grpc_url) as client:
        session = client.open(image)
        return [session.click(x, y, positive) for x, y, positive in CLICKS]


def test_workers_of_cvat_share_the_features(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIS_URL", server.grpc_url)
    image = png(pixels(3000))
    workers = [nuclio_sdk.Context(nuclio_sdk.Logger(50)) for _ in range(2)]
    for worker in workers:
        interactor.init_context(worker)
    replies = []
    with work_of(server) as cost:
        for count in range(1, len(CLICKS) + 1):
            body = {
                "image": base64.b64encode(image).decode(),
                "pos_points": [[x + 0.5, y + 0.5] for x, y, sign in CLICKS[:count] if sign],
                "neg_points": [[x + 0.5, y + 0.5] for x, y, sign in CLICKS[:count] if not sign],
            }
            event = nuclio_sdk.Event(body=json.dumps(body).encode())
            replies.append(interactor.handler(workers[0], event))
        last = interactor.handler(workers[1], event)
    assert [reply.status_code for reply in (*replies, last)] == [200] * 5
    # The first worker decodes one click per request; the second has to repeat all four.
    assert (cost["ois_encoder"], cost["ois_decoder"]) == (1, 8)
    for reply, mask in zip(replies, masks_of(server, image), strict=True):
        assert json.loads(reply.body) == {"mask": mask.tolist()}


def label_studio_request(path: str, image: np.ndarray, clicks: list) -> dict[str, Any]:
    height, width = image.shape[:2]
    regions = [
        {
            "type": "keypointlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "is_positive": sign,
            "value": {
                "x": (x + 0.5) / width * 100,
                "y": (y + 0.5) / height * 100,
                "keypointlabels": ["object"],
            },
        }
        for x, y, sign in clicks
    ]
    return {
        "tasks": [{"id": 1, "data": {"image": path}}],
        "label_config": LABEL_CONFIG,
        "params": {"context": {"result": regions}},
    }


@contextmanager
def files_of(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server for a folder. Yields its address and a list of its requests."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, _: str, *arguments: object) -> None:
            asked.append(str(arguments[0]))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def backend(**environment: str) -> Iterator[str]:
    """The backend, started as in its README. Yields its address."""
    process = subprocess.Popen(
        [sys.executable, str(BACKEND)],
        env={**os.environ, "PORT": "0", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            raise AssertionError("".join(lines))
        rest = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
        rest.start()
        yield found[1]
    finally:
        process.terminate()
        process.wait(timeout=30)
        rest.join(timeout=30)
        process.stderr.close()


def test_label_studio_s_clicks_fetch_and_encode_the_image_once(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    image = pixels(3100)
    (tmp_path / "photo.png").write_bytes(png(image))
    masks = []
    with (
        files_of(tmp_path) as (host, asked),
        backend(OIS_URL=server.grpc_url, LABEL_STUDIO_URL=host) as url,
        work_of(server) as cost,
    ):
        for count in range(1, len(CLICKS) + 1):
            body = label_studio_request("/photo.png", image, CLICKS[:count])
            request = urllib.request.Request(f"{url}/predict", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=30) as reply:
                [prediction] = json.load(reply)["results"]
            [region] = prediction["result"]
            height, width = image.shape[:2]
            masks.append(mask_of_brush(region["value"]["rle"], width, height))
    assert asked == ["GET /photo.png HTTP/1.1"]
    assert (cost["ois_encoder"], cost["ois_decoder"]) == (1, len(CLICKS))
    np.testing.assert_array_equal(masks, masks_of(server, png(image)))


def test_a_backend_without_a_server_fails_with_an_error_message() -> None:
    run = subprocess.run(
        [sys.executable, str(BACKEND)],
        env={**os.environ, "OIS_URL": "grpc://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr


def test_sam_s_predictor_and_everything_mode_encode_once(server: EmbeddedServer) -> None:
    image = pixels(3200)
    with Client(server.grpc_url) as client, work_of(server) as cost:
        predictor = OISPredictor(client)
        predictor.set_image(image)
        for count in range(1, 5):
            points = np.array([[10.0 * n, 20] for n in range(1, count + 1)])
            predictor.predict(points, np.ones(count, dtype=int))
        records = OISAutomaticMaskGenerator(client).generate(image)
    assert records
    assert cost["ois_encoder"] == 1
    assert cost["ois_decoder"] == 4 + 256 // ServingOptions().decode_objects
