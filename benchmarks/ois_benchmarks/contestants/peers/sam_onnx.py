"""SAM, HQ-SAM and MobileSAM as ONNX graphs, the way they are usually deployed.

The decoder is each repository's `SamOnnxModel` (prompt encoder, decoder and resizing to the image
in one graph), exported as in its `scripts/export_onnx_model.py`. The repositories do not export the
encoder, so the image encoder is exported in the same way.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ois_benchmarks.contestants.base import Image, Mask, Place
from ois_benchmarks.contestants.graphs import Graph, in_its_own_process, open_graph, trace
from ois_benchmarks.contestants.peers.sam import (
    SIDE,
    SamContestant,
    SamVariant,
    open_sam,
    padded_points,
)
from ois_benchmarks.contestants.peers.sam import VARIANTS as EAGER
from ois_benchmarks.latency.result import Cost, Identity
from ois_client.contract.clicks import Click

VARIANTS = {
    f"{name}-onnx{'-hoisted' if variant.hoisted else ''}": replace(
        variant, label=", ".join((label, "ONNX Runtime", *rest))
    )
    for name, variant in (
        ("sam-vitb", EAGER["sam-vitb"]),
        ("hqsam-vitb", EAGER["hqsam-vitb"]),
        ("hqsam-vitb", EAGER["hqsam-vitb-hoisted"]),
        ("mobilesam", EAGER["mobilesam"]),
    )
    for label, *rest in (variant.label.split(", "),)
}
_FILES = ("encoder.onnx", "decoder.onnx")


def open_sam_onnx(place: Place, variant: SamVariant) -> SamOnnxContestant:
    """Export both graphs into `place.scratch` and load them. Raises what `open_sam` raises."""
    place = replace(place, device="cpu")
    cost = in_its_own_process(export, place, variant)
    eager = open_sam(place, variant)
    encoder, decoder = (open_graph(place.scratch / name, place.threads) for name in _FILES)
    identity = replace(eager.identity, engine=encoder.engine)
    return SamOnnxContestant(eager.predictor, identity, cost, encoder, decoder)


def export(place: Place, variant: SamVariant) -> Cost | None:
    """Write both graphs. Returns the cost, counted in PyTorch."""
    eager = open_sam(place, variant)
    # Count before the exporter changes the modules. Any picture is resized to this square.
    eager.set_image(np.zeros((SIDE, SIDE, 3), np.uint8))
    cost = eager.cost()
    encoder, decoder = (place.scratch / name for name in _FILES)
    graph = _Encoder(eager.network, variant)
    trace(graph, {"image": torch.zeros(1, 3, SIDE, SIDE)}, graph.outputs, encoder)
    _export_decoder(eager, variant, decoder)
    return cost


class SamOnnxContestant:
    """The two graphs. Resizing and normalisation are the predictor's own."""

    encodes = True
    served = False

    def __init__(
        self, predictor: Any, identity: Identity, cost: Cost | None, encoder: Graph, decoder: Graph
    ) -> None:
        self.identity = identity
        self._predictor = predictor
        self._cost = cost
        self._encoder, self._decoder = encoder, decoder
        self._state: dict[str, NDArray[Any]] = {}
        self._logits: NDArray[np.float32] = np.zeros((1, 1, 256, 256), np.float32)

    def set_image(self, image: Image) -> None:
        predictor = self._predictor
        scaled = torch.as_tensor(predictor.transform.apply_image(image))
        pixels = predictor.model.preprocess(scaled.permute(2, 0, 1).contiguous()[None])
        self._state = dict(self._encoder.run({"image": pixels.numpy()}))
        self._size = np.array(image.shape[:2], np.float32)

    def click(self, clicks: Sequence[Click]) -> Mask:
        points, labels = padded_points(clicks)
        height, width = (int(side) for side in self._size)
        feeds = {
            **self._state,
            "point_coords": self._predictor.transform.apply_coords(points, (height, width)).astype(
                np.float32
            ),
            "point_labels": labels,
            "mask_input": self._logits,
            "has_mask_input": np.array([len(clicks) > 1], np.float32),
            "orig_im_size": self._size,
        }
        found = self._decoder.run(feeds)
        self._logits = found["low_res_masks"]
        mask: Mask = found["masks"][0, 0] > 0
        return mask

    def cost(self) -> Cost | None:
        """Counted in PyTorch, since the graphs have the same products and convolutions."""
        return self._cost

    def close(self) -> None:
        self._state = {}


class _Encoder(nn.Module):
    """The image encoder, with the outputs that the decoder graph needs."""

    def __init__(self, network: Any, variant: SamVariant) -> None:
        super().__init__()
        self.network = network
        self.variant = variant
        self.outputs = ["image_embeddings"]
        if variant.family == "hqsam":
            self.outputs.append("hq_features" if variant.hoisted else "interm_embeddings")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.variant.family != "hqsam":
            return (self.network.image_encoder(image),)
        features, early = self.network.image_encoder(image)
        if not self.variant.hoisted:
            return features, torch.stack(early)
        of_features, of_early = self.network.mask_decoder.hoisted
        return features, of_features(features) + of_early(early[0].permute(0, 3, 1, 2))


class _HoistedDecoder(nn.Module):
    """HQ-SAM's ONNX model with the image-only features as an input."""

    def __init__(self, model: nn.Module, network: Any) -> None:
        super().__init__()
        self.model = model
        self.decoder = network.mask_decoder
        self.decoder.compress_vit_feat.value = torch.zeros(1)

    def forward(self, image_embeddings: Tensor, hq_features: Tensor, *rest: Tensor) -> Any:
        self.decoder.embedding_encoder.value = hq_features
        unused = torch.zeros(1, 1, 1, 1, 1)
        return self.model(image_embeddings, unused, *rest)


def _export_decoder(eager: SamContestant, variant: SamVariant, path: Path) -> None:
    network: Any = eager.network
    onnx = importlib.import_module(f"{eager.module}.utils.onnx")
    rows, columns = network.prompt_encoder.image_embedding_size
    width = network.prompt_encoder.embed_dim
    inputs = {"image_embeddings": torch.zeros(1, width, rows, columns)}
    if variant.family != "hqsam":
        graph = onnx.SamOnnxModel(network, return_single_mask=True)
    elif variant.hoisted:
        graph = _HoistedDecoder(onnx.SamOnnxModel(network), network)
        inputs["hq_features"] = torch.zeros(1, width // 8, 4 * rows, 4 * columns)
    else:
        graph = onnx.SamOnnxModel(network)
        early = [each.shape for each in eager.predictor.interm_features]
        inputs["interm_embeddings"] = torch.zeros(len(early), *early[0])
    inputs |= {
        "point_coords": torch.full((1, 5, 2), 100.0),
        "point_labels": torch.ones(1, 5),
        "mask_input": torch.zeros(1, 1, 4 * rows, 4 * columns),
        "has_mask_input": torch.ones(1),
        "orig_im_size": torch.tensor([1500.0, 2250.0]),
    }
    axes = {"point_coords": {1: "points"}, "point_labels": {1: "points"}}
    trace(graph, inputs, ["masks", "iou_predictions", "low_res_masks"], path, axes)
