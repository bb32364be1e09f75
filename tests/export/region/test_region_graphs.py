"""The three graphs of a decoder decode what the network decodes, whole and on regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ois_client.contract.geometry import Geometry
from ois_export.graphs.trace import decoder_example
from ois_export.region.graphs import export_region_graphs
from ois_export.targets import Target
from ois_network.attention import TorchAttention, set_attention_ops
from ois_network.config import NetworkConfig
from ois_network.region import CoarseHead
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites, detail_name
from ois_runtime.engines import onnx_runtime, openvino
from ois_runtime.engines.backends import EngineOptions, Precision
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.region.boxes import Box
from ois_runtime.engines.region.decoder import OUTSIDE, RegionDecoder, RegionForm
from ois_runtime.engines.region.windows import TailForm
from support.network_scenes import (
    MICRO,
    position_matrices,
    random_image,
    random_network,
    random_prompts,
)

CONFIG: NetworkConfig = MICRO.replace(
    patch=16,
    longest=128,
    output_stride=2,
    aligned_corners=False,
    detail_channels=4,
    previous_mask=True,
    fine_prompts=True,
    keep_clicks=True,
)
ROWS, COLUMNS = 10, 13


class Exported:
    """The graphs in a folder, and what the network says about two objects."""

    def __init__(self, folder: Path) -> None:
        network = random_network(CONFIG, seed=1)
        decoder = ClickDecoder(network, Rewrites())
        encoder = ImageEncoder(network, Rewrites())
        head = CoarseHead(CONFIG.head_features).requires_grad_(False)
        head.conv.weight.fill_(0.01)
        with torch.no_grad():
            image = random_image(CONFIG, ROWS, COLUMNS)
            state = encoder(image, *position_matrices(CONFIG, ROWS, COLUMNS))
            counts = [(2, 1), (1, 0)]
            prompts = random_prompts(ROWS, COLUMNS, counts, previous=[True, False], config=CONFIG)
            self.logits, self.coverage = (t.numpy() for t in decoder(state, *prompts))
            self.coarse = head(decoder.path(state, *prompts)).numpy()
            example, given, axes = decoder_example(encoder, decoder)
            target = Target.CPU
            set_attention_ops(network, target.attention("fp32"))
            self.paths = export_region_graphs(
                decoder, head, example, given, axes, folder, target.form("fp32").opset
            )
            set_attention_ops(network, TorchAttention())
        width, height = COLUMNS * CONFIG.patch, ROWS * CONFIG.patch
        geometry = Geometry(width, height, COLUMNS, ROWS, CONFIG.patch, CONFIG.coverage_scale)
        self.state = ImageState({name: t.numpy() for name, t in state.items()}, geometry)
        self.prompts = prompts.map(lambda tensor: tensor.numpy())

    def decoder(
        self, backend: str, precision: Precision = Precision.FP32, *, keep_clicks: bool = True
    ) -> RegionDecoder:
        library = {"onnxruntime": onnx_runtime, "openvino": openvino}[backend]
        options = EngineOptions(threads=1, precision=precision)
        tail = TailForm(CONFIG.patch, 2, aligned=False, detail=detail_name(CONFIG))
        form = RegionForm(
            tail=tail, cell=CONFIG.coverage_stride, keep_clicks=keep_clicks, threshold=0
        )
        graphs = (library.open_graph(path, options) for path in self.paths.values())
        return RegionDecoder(form, *graphs)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("region"))


@pytest.mark.parametrize(
    ("backend", "precision", "limit"),
    [
        ("onnxruntime", Precision.FP32, 1e-4),
        ("openvino", Precision.FP32, 1e-4),
        ("openvino", Precision.BF16, 5e-2),
    ],
)
def test_graphs_decode_what_the_network_decodes(
    exported: Exported, backend: str, precision: Precision, limit: float
) -> None:
    if precision is Precision.BF16 and not openvino.native_bf16():
        pytest.skip("this CPU has no bfloat16 instructions")
    decoder = exported.decoder(backend, precision)
    most = limit * float(np.abs(exported.logits).max())
    whole = decoder.decode(exported.state, exported.prompts, whole=True)
    np.testing.assert_allclose(whole.logits, exported.logits, atol=most)
    # The boxes do not contain all clicks, and corrections of the others reach into them.
    decoder = exported.decoder(backend, precision, keep_clicks=False)
    whole = decoder.decode(exported.state, exported.prompts, whole=True)
    boxes = [[Box(0, 0, 4, 6), Box(6, 8, 8, 10)], [Box(2, 3, 8, 9)]]
    region = decoder.decode(exported.state, exported.prompts, boxes=boxes)
    decoded = region.logits != OUTSIDE
    assert 0.1 < decoded.mean() < 0.9
    np.testing.assert_allclose(region.logits[decoded], whole.logits[decoded], atol=most)


def test_the_coarse_map_is_the_heads(exported: Exported) -> None:
    decoder = exported.decoder("onnxruntime")
    feeds = {**exported.state.arrays, **exported.prompts.named()}
    trunk = decoder._trunk
    found = trunk.run({name: feeds[name] for name in trunk.inputs})
    np.testing.assert_allclose(
        found["coarse"], exported.coarse, atol=1e-4 * float(np.abs(exported.coarse).max())
    )
