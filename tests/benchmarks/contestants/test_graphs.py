"""Peers as ONNX graphs: both libraries run them, and the adapters feed them as their networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ois_benchmarks.contestants.base import NotHere, Place
from ois_benchmarks.contestants.graphs import in_its_own_process, open_graph, trace
from ois_benchmarks.contestants.peers import efficientsam_onnx, sam_onnx, segnext_onnx
from ois_benchmarks.contestants.peers.efficientsam_onnx import EfficientSamOnnx
from ois_benchmarks.contestants.peers.segnext_onnx import Halves
from ois_benchmarks.contestants.registry import CONTESTANTS, open_contestant
from ois_benchmarks.latency.result import Identity
from ois_client.contract.clicks import Click
from ois_runtime.engines.backends import Precision
from ois_runtime.engines.openvino import native_bf16

SIDE, PATCH, WIDTH = 32, 8, 6
IDENTITY = Identity(
    label="Peer",
    family="peer",
    engine="",
    precision="fp32",
    source="here",
    weights="random",
    sha256="",
    input_size=(SIDE, SIDE),
)


class Prompts(nn.Module):
    """A patch embedding, with the name and the result's shape of SegNext's."""

    patch_size = (PATCH, PATCH)

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, mask: Tensor) -> Tensor:
        tokens: Tensor = self.proj(mask)
        return tokens.flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, image: Tensor, keep_shape: bool) -> Tensor:
        assert keep_shape
        features: Tensor = self.patches(image)
        return features


class SmallSegNext(nn.Module):
    """The parts and methods of SegNext's `PlainVitModel` that the adapter uses, a few numbers wide.

    Its prompts are the previous mask, a map of the first point, and a constant.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.target_length = SIDE
        self.backbone = Backbone()
        self.visual_prompts_encoder = Prompts()
        self.fusion_blocks = nn.Conv2d(WIDTH, WIDTH, 1)
        self.neck = nn.Conv2d(WIDTH, WIDTH, 1)
        self.head = nn.Conv2d(WIDTH, 1, 1)

    def preprocess(self, image: Tensor) -> Tensor:
        self.orig_size = image.shape[-2:]
        return nn.functional.interpolate(2 * image - 1, SIDE, mode="bilinear")

    def postprocess(self, logits: Tensor) -> Tensor:
        return nn.functional.interpolate(logits, self.orig_size, mode="bilinear")

    def get_image_feats(self, image: Tensor) -> Tensor:
        features: Tensor = self.backbone(self.preprocess(image), keep_shape=True)
        return features

    def get_prompt_feats(
        self, _image_shape: Any, prompts: Mapping[str, Tensor], keep_shape: bool = True
    ) -> Tensor:
        mask = nn.functional.interpolate(prompts["prev_mask"], SIDE, mode="bilinear")
        points = torch.zeros(1, 1, SIDE, SIDE)
        points[0, 0, int(prompts["points"][0, 0, 0])] = 1
        tokens = self.visual_prompts_encoder(torch.cat([mask, points, 0.5 + 0 * points], 1))
        if not keep_shape:
            return tokens
        cells = SIDE // PATCH
        return tokens.transpose(1, 2).reshape(1, WIDTH, cells, cells)

    def fusion(self, image: Tensor, prompts: Tensor) -> Tensor:
        return torch.tanh(self.fusion_blocks(image + prompts))

    def forward(self, _image_shape: Any, image: Tensor, prompts: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.neck(self.fusion(image, prompts)))
        logits = nn.functional.interpolate(logits, SIDE, mode="bilinear", align_corners=True)
        return {"instances": self.postprocess(logits)}


def logits_of(network: Any, image: Tensor) -> Tensor:
    """Two clicks as SegNext's predictor makes them, the second with the first one's mask."""
    features = network.get_image_feats(image)
    mask = torch.zeros(1, 1, *image.shape[-2:])
    for row in (9, 20):
        prompts = {"points": torch.tensor([[[row, 3, 0]]]), "prev_mask": mask}
        found = network(None, features, network.get_prompt_feats(None, prompts))["instances"]
        mask = torch.sigmoid(found)
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_segnext_in_two_graphs_is_segnext(tmp_path: Path, precision: Precision) -> None:
    if precision is Precision.BF16 and not native_bf16():
        pytest.skip("this CPU has no bf16")
    network = SmallSegNext().eval()
    image = torch.rand(1, 3, 21, 27, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = logits_of(network, image)
        encoder, decoder = tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"
        segnext_onnx.write_graphs(network, encoder, decoder)
        graphs = [open_graph(path, 1, precision) for path in (encoder, decoder)]
        found = logits_of(Halves(network, *graphs), image)
    assert expected.std() > 0.01
    tolerance = 1e-5 if precision is Precision.FP32 else 0.02
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    library = {Precision.FP32: "onnxruntime", Precision.BF16: "openvino"}[precision]
    assert graphs[0].engine.startswith(library)
    assert graphs[0].engine.endswith(f"{precision} on cpu")
    assert not list(network.parameters())  # the network's own weights are no longer in memory


class Recorded:
    """A graph that returns the same arrays and keeps its feeds."""

    inputs, outputs, engine = (), (), "none"

    def __init__(self, answer: Mapping[str, np.ndarray]) -> None:
        self.answer = answer
        self.fed: list[Mapping[str, Any]] = []

    def run(self, feeds: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        self.fed.append(feeds)
        return self.answer


def test_efficientsam_gets_at_most_its_clicks_and_the_best_mask_is_taken() -> None:
    encoder = Recorded({"image_embeddings": np.ones((1, 2))})
    logits = np.full((1, 1, 3, 4, 5), -1.0)
    logits[0, 0, 1, 2, 3] = 0  # a pixel at the threshold belongs to the mask
    decoder = Recorded(
        {"output_masks": logits, "iou_predictions": np.array([[[0.1, 0.9, 0.5]]])},
    )
    peer = EfficientSamOnnx(IDENTITY, None, encoder, decoder, most_clicks=2)
    peer.set_image(np.full((4, 5, 3), 51, np.uint8))
    clicks = [Click(1, 2), Click(3, 0, False), Click(4, 3)]
    mask = peer.click(clicks)
    assert mask.dtype == np.bool_
    assert np.argwhere(mask).tolist() == [[2, 3]]
    pixels = encoder.fed[0]["batched_images"]
    assert pixels.shape == (1, 3, 4, 5)
    assert pixels.max() == pytest.approx(0.2)
    fed = decoder.fed[0]
    assert fed["batched_point_coords"].tolist() == [[[[1, 2], [3, 0]]]]
    assert fed["batched_point_labels"].tolist() == [[[1, 0]]]
    assert fed["orig_im_size"].tolist() == [4, 5]
    assert fed["image_embeddings"].shape == (1, 2)


class Half(nn.Module):
    def forward(self, x: Tensor, unused: Tensor) -> Tensor:
        del unused
        return x / 2


def test_inputs_that_a_graph_dropped_may_be_fed(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    trace(Half(), {"x": torch.zeros(1, 3), "unused": torch.zeros(1)}, ["y"], path, {"x": {0: "n"}})
    graph = open_graph(path, 1)
    assert (graph.inputs, graph.outputs) == (("x",), ("y",))
    fed = {"x": np.ones((2, 3), np.float32), "unused": np.zeros(1, np.float32)}
    assert graph.run(fed)["y"].tolist() == [[0.5] * 3] * 2


def test_an_error_of_the_exporting_process_is_raised_here(tmp_path: Path) -> None:
    assert in_its_own_process(len, "abc") == 3
    with pytest.raises(NotHere, match=r"clone https://github.com/uncbiag/SegNext"):
        in_its_own_process(
            segnext_onnx.export,
            Place(threads=1, scratch=tmp_path),
            segnext_onnx.VARIANTS["segnext-sax2-onnx"],
        )


@pytest.mark.parametrize("module", [sam_onnx, segnext_onnx, efficientsam_onnx])
def test_every_graph_is_a_contestant_with_its_library_in_the_label(module: Any) -> None:
    for name, variant in module.VARIANTS.items():
        assert CONTESTANTS[name].module == f"peers.{module.__name__.rpartition('.')[2]}"
        library = "OpenVINO bf16" if "openvino" in name else "ONNX Runtime"
        assert library in variant.label
    labels = [variant.label for variant in module.VARIANTS.values()]
    assert len(set(labels)) == len(labels)


def test_a_graph_without_its_clone_is_a_row_with_the_reason(tmp_path: Path) -> None:
    for name in ("mobilesam-onnx", "efficientsam-ti-onnx"):
        with pytest.raises(NotHere, match=r"clone https://github.com/"):
            open_contestant(name, Place(threads=1, scratch=tmp_path))
