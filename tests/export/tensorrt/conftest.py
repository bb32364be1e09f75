"""A small network, exported for TensorRT in fp32 and fp16."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest

from ois_export.export import describe_graph
from ois_export.graphs.precision import typed
from ois_export.targets import Target
from ois_network.network import OISNetwork
from ois_runtime.engines.backends import Precision
from ois_runtime.engines.manifest import Manifest
from support.exports import micro_engines
from support.network_scenes import micro


@pytest.fixture(scope="session")
def network() -> OISNetwork:
    return micro()


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_engines(tmp_path_factory, target=Target.TENSORRT)


@pytest.fixture(scope="session")
def half_graphs(tmp_path_factory: pytest.TempPathFactory, graphs: Path) -> Path:
    folder = tmp_path_factory.mktemp("fp16")
    engines = {}
    for role in ("encoder", "decoder"):
        path = folder / f"{role}.onnx"
        onnx.save(typed(onnx.load(str(graphs / path.name)), Precision.FP16), str(path))
        engines[role] = describe_graph(path, Target.TENSORRT)
    dataclasses.replace(Manifest.load(graphs), precision="fp16", **engines).save(folder)
    return folder
