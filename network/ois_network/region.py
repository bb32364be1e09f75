"""The click decoder in two parts, so that its second part can run on a region of the image.

    Trunk        image state, prompts -> path (N, f, 4 gh, 4 gw), coarse (N, 4 gh, 4 gw)
    Tail         path -> logits of the whole image
    RegionTail   a crop of path -> the logits of a box of patches, equal to the tail's

The tail is local: a pixel of the mask depends on about ten cells of `path` in each direction. It
costs most of a click, and its cost is proportional to the area, so it need not run on background.
`coarse` estimates the logits, cell by cell, from `path` alone. Whoever runs the parts uses it to
choose the region (`ois_runtime/engines/region/`).

Bilinear upsampling is the one operation that a crop changes: its weights depend on the position in
the whole map. `RegionTail` gets them as matrices for each axis and each upsampling. Zero padding is
right where a crop ends at the image's border; elsewhere the crop is larger than needed, by what the
convolutions spoil.

A sample depends on two neighbours, so nearly all of such a matrix is zero. The large upsamplings
get it in tiles: for a few samples that follow one another, the cells that they read, and one small
matrix. Channels come last meanwhile, as in the convolutions of CPU libraries, so a gather copies
whole cells, and tiles follow each other in memory as they should in the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ois_network.config import NetworkConfig
from ois_network.network import OISNetwork
from ois_network.split import ClickDecoder, detail_name

#: Names of the trunk's outputs.
TRUNK_OUTPUTS = ("path", "coarse")


class CoarseHead(nn.Module):
    """An estimate of the logits: one linear function of each cell of `path`, and of its ReLU.

    `ois_export.region.fit` fits it to the logits of the whole decoder. Before that it is zero.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * features, 1, 1)
        nn.init.zeros_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, path: Tensor) -> Tensor:
        """path (N, f, rows, columns) -> (N, rows, columns)."""
        # Two products, because joining the maps first would copy the largest of a click.
        plain, positive = self.conv.weight.chunk(2, dim=1)
        linear = F.conv2d(path, plain, self.conv.bias)
        return (linear + F.conv2d(F.relu(path), positive))[:, 0]


class Trunk(nn.Module):
    """The first part: all that a click changes, down to the grid of 4x4 cells per patch."""

    def __init__(self, decoder: ClickDecoder, coarse: CoarseHead) -> None:
        super().__init__()
        self.decoder = decoder
        self.coarse = coarse

    def forward(
        self,
        state: dict[str, Tensor],
        points: Tensor,
        labels: Tensor,
        coverage: Tensor,
        has_previous: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The inputs of `ClickDecoder` -> path (N, f, 4 gh, 4 gw), coarse (N, 4 gh, 4 gw)."""
        path = self.decoder.path(state, points, labels, coverage, has_previous)
        return path, self.coarse(path)


class Tail(nn.Module):
    """The second part, on the whole image. Without the correction of `keep_clicks`."""

    def __init__(self, decoder: ClickDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        """given: "path", and the map of details if the network has one -> logits (N, h, w)."""
        return self.decoder.predict(given["path"], given)


class RegionTail(nn.Module):
    """The second part, on a crop.

    Its inputs have the names of `crop_names`, and batch 1 or N.
    """

    def __init__(self, network: OISNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        """given: crops of "path" and of the map of details, and the matrices of upsamplings.

        Returns logits (N, rows of the last matrix, columns of the last matrix).
        """
        head, config = self.network.mask_head, self.network.config
        refinenet = head.refinenet(1)
        path = refinenet.out_conv(refinenet.resConfUnit2(given["path"]))
        path = head.scratch.output_conv1(enlarged(path, given, "8"))
        if "rows_out" in given:
            path = enlarged(path, given, "_out")
        if self.network.detail is not None:
            path = self.network.detail.merge(path, given[detail_name(config)])
        logits = head.scratch.output_conv2(path)
        if "rows_full" in given:
            logits = resample(logits, given["rows_full"], given["columns_full"])
        return logits[:, 0]


def enlarged(x: Tensor, given: dict[str, Tensor], suffix: str) -> Tensor:
    """x (N, f, a, b) after the upsampling of this suffix of `crop_names`."""
    columns, columns_from = given[f"columns{suffix}"], given[f"columns{suffix}_from"]
    rows, rows_from = given[f"rows{suffix}"], given[f"rows{suffix}_from"]
    tiles, size, cells = columns.shape
    x = x.permute(0, 2, 3, 1)
    n, a, b, f = x.shape
    x = x.index_select(2, columns_from.flatten()).view(n, a, tiles, cells, f)
    x = (columns @ x).view(n, a, tiles * size, f)
    b, (tiles, size, cells) = tiles * size, rows.shape
    x = x.index_select(1, rows_from.flatten()).view(n, tiles, cells, b * f)
    return (rows @ x).view(n, tiles * size, b, f).permute(0, 3, 1, 2)


def resample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (N, f, a, b), rows (A, a), columns (B, b) -> (N, f, A, B)."""
    return rows @ (x @ columns.t())


_TILES = [(axis, part) for axis in ("rows", "columns") for part in ("", "_from")]


def tail_names(config: NetworkConfig) -> tuple[str, ...]:
    """The names of the maps that the tail reads."""
    return ("path", detail_name(config)) if config.detail_channels else ("path",)


def crop_names(config: NetworkConfig) -> tuple[str, ...]:
    """The names of the inputs of `RegionTail`.

    rows8, columns8: from the 4x grid to the 8x grid; rows_out, columns_out: to the size of the last
    convolutions, if that is another. Both in tiles: (T, m, k) matrices, and (T, k) int64 the cells
    that each reads, as rows8_from and so on. rows_full, columns_full: to network size, if that is
    another; one matrix.
    """
    steps = ["8", "_out"] if config.patch != 8 * config.output_stride else ["8"]
    names = [*tail_names(config)]
    names += [f"{axis}{step}{part}" for step in steps for axis, part in _TILES]
    if config.output_stride > 1:
        names += ["rows_full", "columns_full"]
    return tuple(names)


@dataclass(frozen=True, slots=True, eq=False)
class DecoderParts:
    """A click decoder in parts, and what their inputs are called."""

    trunk: Trunk
    tail: Tail
    crop: RegionTail
    tail_inputs: tuple[str, ...]
    crop_inputs: tuple[str, ...]

    @classmethod
    def of(cls, decoder: ClickDecoder, coarse: Sequence[float]) -> DecoderParts:
        """coarse: the weights of the coarse map and, last, its bias. In fp32."""
        config = decoder.network.config
        head = CoarseHead(config.head_features).requires_grad_(False)
        head.conv.weight.copy_(torch.tensor(coarse[:-1]).view(1, -1, 1, 1))
        if head.conv.bias is not None:
            head.conv.bias.fill_(coarse[-1])
        return cls(
            Trunk(decoder, head),
            Tail(decoder),
            RegionTail(decoder.network),
            tail_names(config),
            crop_names(config),
        )
