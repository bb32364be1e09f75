"""Fits the coarse map to the decoder's own logits, by weighted least squares.

For each cell of `path` the target is the largest logit inside the cell, clipped: how certain the
decoder is far from the threshold does not matter. Foreground and background cells weigh the same
together. Then the threshold is set: at most a few of ten thousand foreground pixels may lie in
patches that it misses.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ois_export.region.rehearsal import Rehearsal, robot_clicks, targets_of
from ois_network.keep_clicks import keep_clicks
from ois_network.network import OISNetwork
from ois_network.order import coverage_of_logits
from ois_network.region import CoarseHead
from ois_network.split import ClickDecoder, ImageEncoder
from ois_runtime.engines.pair import HostPrompts
from ois_runtime.engines.pixels import preprocess
from ois_runtime.engines.region.windows import CELLS

#: Logits are clipped to this.
_CLIP = 6.0
#: Share of all foreground pixels that may lie outside the region before it grows.
_MISSED = 2e-4
#: Relative to the mean square of the features.
_RIDGE = 1e-4
_MOST_TARGETS = 2


class _Sums:
    """The normal equations of both classes, background and foreground."""

    def __init__(self, size: int) -> None:
        self.squares = torch.zeros(2, size, size, dtype=torch.float64)
        self.products = torch.zeros(2, size, dtype=torch.float64)
        self.counts = torch.zeros(2, dtype=torch.float64)

    def add(self, features: Tensor, target: Tensor) -> None:
        """features (cells, size), target (cells)."""
        for side, chosen in enumerate((target <= 0, target > 0)):
            some = features[chosen]
            self.squares[side] += (some.T @ some).double()
            self.products[side] += (some.T @ target[chosen]).double()
            self.counts[side] += len(some)

    def solve(self) -> Tensor:
        weights = 1 / self.counts.clamp(min=1)
        squares = (self.squares * weights.view(2, 1, 1)).sum(0)
        products = (self.products * weights.view(2, 1)).sum(0)
        ridge = _RIDGE * squares.diagonal().mean() * torch.eye(len(squares), dtype=torch.float64)
        ridge[-1, -1] = 0  # the bias
        return torch.linalg.solve(squares + ridge, products).float()


def fit_coarse(
    network: OISNetwork,
    images: list[Rehearsal],
    *,
    clicks: int,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[CoarseHead, float]:
    """The coarse map of this network, and its threshold."""
    network = network.eval().requires_grad_(False)
    encoder, decoder = ImageEncoder(network), ClickDecoder(network)
    features = network.config.head_features
    sums = _Sums(2 * features + 1)
    kept: list[tuple[Tensor, Tensor]] = []  # path (f, rows, columns), logits (h, w)
    with torch.inference_mode():
        for number, image in enumerate(images, start=1):
            progress(f"coarse map {number}/{len(images)}: {image.name}")
            for path, logits in _decoded(network, encoder, decoder, image, clicks, number):
                cells = F.adaptive_max_pool2d(logits[None, None], path.shape[1:])[0, 0]
                flat = path.flatten(1).T
                ones = torch.ones(len(flat), 1)
                design = torch.cat((flat, flat.relu(), ones), dim=1)
                sums.add(design, cells.flatten().clamp(-_CLIP, _CLIP))
                kept.append((path.half(), logits.half()))
        head = CoarseHead(features)
        solution = sums.solve()
        head.conv.weight.copy_(solution[:-1].view(1, -1, 1, 1))
        if head.conv.bias is not None:
            head.conv.bias.copy_(solution[-1:])
        head.requires_grad_(False)
        threshold = _threshold(head, kept, network.config.patch)
    return head, threshold


def _decoded(
    network: OISNetwork,
    encoder: ImageEncoder,
    decoder: ClickDecoder,
    image: Rehearsal,
    clicks: int,
    seed: int,
) -> list[tuple[Tensor, Tensor]]:
    """path (f, rows, columns) and logits (h, w) of every robot click on some objects."""
    config = network.config
    pixels, geometry = preprocess(image.pixels, config.fit)
    matrices = geometry.position_matrices(config.position_table)
    state = encoder(torch.from_numpy(pixels.copy()), *map(torch.from_numpy, matrices))
    seen: list[tuple[Tensor, Tensor]] = []

    def decode(prompts: HostPrompts) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        given = prompts.map(torch.from_numpy)
        path = decoder.path(state, *given)
        logits = decoder.predict(path, state)
        seen.append((path[0], logits[0]))
        if config.keep_clicks:
            logits = keep_clicks(logits, given.points, given.labels)
        coverage = coverage_of_logits(logits, config.coverage_stride)
        return logits[0].numpy(), coverage[0].numpy()

    for target in targets_of(image, geometry, decode, most=_MOST_TARGETS, seed=seed):
        for _ in robot_clicks(target, geometry, decode, clicks):
            pass
    return seen


def _threshold(head: CoarseHead, kept: list[tuple[Tensor, Tensor]], patch: int) -> float:
    """The largest threshold that misses at most `_MISSED` of the foreground."""
    scores, weights = [], []
    for path, logits in kept:
        coarse = head(path.float()[None])
        # A patch is decoded if the map exceeds the threshold in it or in a neighbour.
        around = F.max_pool2d(F.max_pool2d(coarse, CELLS), 3, stride=1, padding=1)[0]
        inside = F.avg_pool2d((logits > 0).float()[None], patch)[0]
        scores.append(around[inside > 0])
        weights.append(inside[inside > 0])
    score, weight = torch.cat(scores), torch.cat(weights).double()
    if not len(score):
        return 0.0
    order = score.argsort()
    lost = weight[order].cumsum(0) <= _MISSED * weight.sum()
    first = min(int(lost.sum()), len(order) - 1)
    return min(float(score[order[first]]) - 1e-3, 0.0)
