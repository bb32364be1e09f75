"""EfficientSAM as ONNX graphs: its own modules of `onnx_models.py`, traced as its script does."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ois_benchmarks.contestants.base import Image, Mask, Place
from ois_benchmarks.contestants.graphs import Graph, in_its_own_process, open_graph, trace
from ois_benchmarks.contestants.peers.efficientsam import VARIANTS as EAGER
from ois_benchmarks.contestants.peers.efficientsam import EfficientSamVariant, open_efficientsam
from ois_benchmarks.contestants.torch_peer import arrays_of
from ois_benchmarks.latency.result import Cost, Identity
from ois_client.contract.clicks import Click

VARIANTS = {
    f"{name}-onnx": replace(variant, label=f"{variant.label}, ONNX Runtime")
    for name, variant in EAGER.items()
}
_FILES = ("encoder.onnx", "decoder.onnx")


def open_efficientsam_onnx(place: Place, variant: EfficientSamVariant) -> EfficientSamOnnx:
    """Export both graphs into `place.scratch` and load them.

    Raises what `open_efficientsam` raises.
    """
    place = replace(place, device="cpu")
    cost = in_its_own_process(export, place, variant)
    eager = open_efficientsam(place, variant)
    encoder, decoder = (open_graph(place.scratch / name, place.threads) for name in _FILES)
    identity = replace(eager.identity, engine=encoder.engine)
    most_clicks = int(eager.network.decoder_max_num_input_points)
    return EfficientSamOnnx(identity, cost, encoder, decoder, most_clicks)


def export(place: Place, variant: EfficientSamVariant) -> Cost | None:
    """Write both graphs, with the inputs of `export_to_onnx.py`. Returns the cost, counted in
    PyTorch.
    """
    eager = open_efficientsam(place, variant)
    eager.set_image(np.zeros((1080, 1920, 3), np.uint8))
    cost = eager.cost()
    models: Any = importlib.import_module("onnx_models")
    encoder, decoder = (place.scratch / name for name in _FILES)
    trace(
        models.OnnxEfficientSamEncoder(eager.network),
        {"batched_images": torch.rand(1, 3, 1080, 1920)},
        ["image_embeddings"],
        encoder,
        {"batched_images": {0: "batch", 2: "height", 3: "width"}},
    )
    trace(
        models.OnnxEfficientSamDecoder(eager.network),
        {
            "image_embeddings": torch.rand(1, 256, 64, 64),
            "batched_point_coords": torch.full((1, 1, 5, 2), 100.0),
            "batched_point_labels": torch.ones(1, 1, 5),
            "orig_im_size": torch.tensor([1080, 1920]),
        },
        ["output_masks", "iou_predictions", "low_res_masks"],
        decoder,
        {name: {2: "num_points"} for name in ("batched_point_coords", "batched_point_labels")},
    )
    return cost


class EfficientSamOnnx:
    """The two graphs, used as in `EfficientSAM_onnx_example.py`."""

    encodes = True
    served = False

    def __init__(
        self,
        identity: Identity,
        cost: Cost | None,
        encoder: Graph,
        decoder: Graph,
        most_clicks: int,
    ) -> None:
        self.identity = identity
        self._cost = cost
        self._encoder, self._decoder = encoder, decoder
        self._most_clicks = most_clicks
        self._state: dict[str, NDArray[Any]] = {}

    def set_image(self, image: Image) -> None:
        pixels = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
        self._state = {
            **self._encoder.run({"batched_images": pixels}),
            "orig_im_size": np.array(image.shape[:2], np.int64),
        }

    def click(self, clicks: Sequence[Click]) -> Mask:
        """The mask with the highest predicted IoU, as the PyTorch contestant."""
        points, labels = arrays_of(clicks[: self._most_clicks])
        found = self._decoder.run(
            {
                **self._state,
                "batched_point_coords": points[None, None],
                "batched_point_labels": labels[None, None].astype(np.float32),
            }
        )
        best = int(found["iou_predictions"][0, 0].argmax())
        mask: Mask = found["output_masks"][0, 0, best] >= 0
        return mask

    def cost(self) -> Cost | None:
        """Counted in PyTorch, since the graphs have the same products and convolutions."""
        return self._cost

    def close(self) -> None:
        self._state = {}
