"""Triton runs the warm-up requests of a model's config before it reports ready.

`ois export` writes warm-up requests for TensorRT engines only. Here the engines are ONNX graphs
whose manifest asks for them. Not run with TensorRT on a GPU.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ois_export.repository import WARM_UP, write_repository
from ois_export.tensorrt.profiles import (
    Objects,
    Shapes,
    decoder_profiles,
    encoder_profiles,
    warm_up_requests,
)
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.manifest import Manifest
from support.exports import micro_engines


def test_every_sample_is_answered_before_the_server_is_ready(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.copytree(micro_engines(tmp_path_factory), tmp_path, dirs_exist_ok=True)
    manifest = Manifest.load(tmp_path)
    shapes = [Shapes.parse(text, manifest) for text in ("landscape", "portrait")]
    asked = {
        "encoder": warm_up_requests(manifest.encoder, encoder_profiles(manifest, shapes)),
        "decoder": warm_up_requests(
            manifest.decoder, decoder_profiles(manifest, shapes, [Objects(1, 1, 1)])
        ),
    }
    manifest = dataclasses.replace(manifest, options={**manifest.options, WARM_UP: asked})
    manifest.save(tmp_path)
    write_repository(tmp_path, manifest)
    with EmbeddedServer(tmp_path, ServerOptions(cache_bytes=64 * 2**20)) as server:
        for role in ("encoder", "decoder"):
            address = f"{server.http_url}/v2/models/ois_{role}"
            taken = get(f"{address}/config")["model_warmup"]
            assert [each["name"] for each in taken] == [each["name"] for each in asked[role]]
            (statistics,) = get(f"{address}/stats")["model_stats"]
            assert statistics["inference_stats"]["success"]["count"] >= len(taken) == 2
            assert statistics["inference_stats"]["fail"]["count"] == 0


def get(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address) as reply:
        return json.load(reply)
