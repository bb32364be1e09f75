"""SegNext in its best form on a CPU: encoder and decoder as two ONNX graphs.

The repository exports nothing. The cut is that of its predictor: what `set_image` computes, and
what a click does. Nothing else of a click depends on the image alone, because its first attention
block already sees the sum of image and prompts. The predictor, the maps of clicks and the resizing
to the picture are its own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ois_benchmarks.contestants.base import Place
from ois_benchmarks.contestants.graphs import Graph, in_its_own_process, open_graph, trace
from ois_benchmarks.contestants.peers.segnext import VARIANTS as EAGER
from ois_benchmarks.contestants.peers.segnext import (
    SegNextContestant,
    SegNextVariant,
    open_segnext,
)
from ois_benchmarks.latency.result import Cost, Identity
from ois_runtime.engines.backends import Precision


@dataclass(frozen=True, slots=True)
class SegNextGraphs:
    """network: what is exported. precision: fp32 runs in ONNX Runtime, bf16 in OpenVINO."""

    label: str
    network: SegNextVariant
    precision: Precision = Precision.FP32


_SAX2 = EAGER["segnext-sax2"]
VARIANTS = {
    "segnext-sax2-onnx": SegNextGraphs("SegNext SAx2, ONNX Runtime", _SAX2),
    "segnext-sax2-openvino-bf16": SegNextGraphs(
        "SegNext SAx2, OpenVINO bf16", _SAX2, Precision.BF16
    ),
}
_FILES = ("encoder.onnx", "decoder.onnx")
_FEATURES, _PROMPT, _LOGITS = "image_features", "prompt_mask", "logits"


def open_segnext_graphs(place: Place, variant: SegNextGraphs) -> SegNextInGraphs:
    """Export both graphs into `place.scratch` and load them.

    Raises what `open_segnext` and `open_graph` raise.
    """
    place = replace(place, device="cpu")
    cost = in_its_own_process(export, place, variant)
    eager = open_segnext(place, variant.network)
    encoder, decoder = (
        open_graph(place.scratch / name, place.threads, variant.precision) for name in _FILES
    )
    identity = replace(
        eager.identity,
        label=variant.label,
        engine=encoder.engine,
        precision=str(variant.precision),
    )
    return SegNextInGraphs(Halves(eager.network, encoder, decoder), identity, cost)


def export(place: Place, variant: SegNextGraphs) -> Cost | None:
    """Write both graphs. Returns the cost, counted in PyTorch."""
    eager = open_segnext(place, variant.network)
    network = eager.network
    side = network.target_length
    eager.set_image(np.zeros((side, side, 3), np.uint8))  # any picture is resized to this square
    cost = eager.cost()
    write_graphs(network, *(place.scratch / name for name in _FILES))
    return cost


def write_graphs(network: Any, encoder: Path, decoder: Path) -> None:
    """Export the halves of SegNext's `PlainVitModel`."""
    side = network.target_length
    image = torch.zeros(1, 3, side, side)
    trace(_Encoder(network), {"image": image}, [_FEATURES], encoder)
    features = network.backbone(image, keep_shape=True)
    trace(_Decoder(network), {_FEATURES: features, _PROMPT: image}, [_LOGITS], decoder)


class _Encoder(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone = network.backbone

    def forward(self, image: Tensor) -> Tensor:
        """(1, C, H / 16, W / 16) of a normalised picture (1, 3, H, W)."""
        features: Tensor = self.backbone(image, keep_shape=True)
        return features


class _Decoder(nn.Module):
    """`PlainVitModel.forward` without the resizing to the picture, and the prompts' embedding."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, prompt_mask: Tensor) -> Tensor:
        """Logits (1, 1, H, W). prompt_mask: (1, 3, H, W), the previous mask and both maps."""
        network = self.network
        tokens = network.visual_prompts_encoder(prompt_mask)
        prompts = tokens.transpose(1, 2).reshape(features.shape)
        maps = network.neck(network.fusion(features, prompts))
        return nn.functional.interpolate(
            network.head(maps), network.target_length, mode="bilinear", align_corners=True
        )


class Halves:
    """What the predictor uses of the network, computed by the two graphs."""

    device = torch.device("cpu")

    def __init__(self, network: Any, encoder: Graph, decoder: Graph) -> None:
        # Without an encoder for them, `get_prompt_feats` returns the maps that it would embed.
        network.visual_prompts_encoder = nn.Identity()
        network.backbone = network.neck = network.head = network.fusion_blocks = nn.Identity()
        self._network, self._encoder, self._decoder = network, encoder, decoder

    def get_image_feats(self, image: Tensor) -> Tensor:
        pixels = self._network.preprocess(image)
        return torch.from_numpy(self._encoder.run({"image": pixels.numpy()})[_FEATURES])

    def get_prompt_feats(self, image_shape: Any, prompts: Mapping[str, Tensor]) -> Tensor:
        maps: Tensor = self._network.get_prompt_feats(image_shape, prompts, keep_shape=False)
        return maps

    def __call__(self, _image_shape: Any, features: Tensor, maps: Tensor) -> dict[str, Tensor]:
        feeds = {_FEATURES: features.numpy(), _PROMPT: maps.numpy()}
        logits = torch.from_numpy(self._decoder.run(feeds)[_LOGITS])
        return {"instances": self._network.postprocess(logits)}


class SegNextInGraphs(SegNextContestant):
    def __init__(self, halves: Halves, identity: Identity, cost: Cost | None) -> None:
        super().__init__(halves, identity)
        self._cost = cost

    def cost(self) -> Cost | None:
        """Counted in PyTorch, since the graphs have the same products and convolutions."""
        return self._cost
