"""Prompt encoders: clicks as dense disks and sparse tokens (paper §3.4, §4.1); masks; fine maps.

Dense: two maps, positive and negative, with a disk of radius 5 px around each click; one
convolution brings them to the patch grid. Sparse: one token per slot, a random Fourier position
plus a type embedding as in SAM; all empty slots have the same learned embedding.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ois_network.config import FINE_SCALE, NetworkConfig


class FourierPosition(nn.Module):
    """Random Fourier features of a point as in SAM: sin and cos of 2π G (2p - 1).

    p is (x + 0.5, y + 0.5) divided by the network's longest side on both axes, so that a distance
    in pixels has the same effect in every image shape.
    """

    gaussian: Tensor

    def __init__(self, dim: int, longest: int) -> None:
        super().__init__()
        self.longest = longest
        # A buffer, because it is not trained but belongs to the checkpoint. Drawn on the CPU,
        # because PyTorch imports its compiler or SymPy to draw on the meta device, which takes
        # seconds. (Checkpoints are checked on the meta device.)
        drawn = torch.randn(2, dim // 2, device="cpu")
        self.register_buffer("gaussian", drawn.to(torch.get_default_device()))

    def forward(self, points: Tensor) -> Tensor:
        """points (..., 2) as (x, y) in network pixels -> (..., C)."""
        unit = (points + 0.5) / self.longest
        phase = 2 * math.pi * ((2 * unit - 1) @ self.gaussian)
        return torch.cat((phase.sin(), phase.cos()), dim=-1)

    def grid(self, rows: int, columns: int, patch: int) -> Tensor:
        """The embedding of every patch centre: (1, gh*gw, C), row-major."""
        device = self.gaussian.device
        y = torch.arange(rows, device=device, dtype=self.gaussian.dtype) * patch
        x = torch.arange(columns, device=device, dtype=self.gaussian.dtype) * patch
        centre = (patch - 1) / 2
        points = torch.stack(
            (
                (x + centre).unsqueeze(0).expand(rows, -1),
                (y + centre).unsqueeze(1).expand(-1, columns),
            ),
            dim=-1,
        )
        return self(points).reshape(1, rows * columns, -1)


class SparsePrompts(nn.Module):
    """48 slots -> 48 tokens."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.type_embedding = nn.Parameter(torch.zeros(2, config.prompt_dim))  # positive, negative
        self.empty_embedding = nn.Parameter(torch.zeros(config.prompt_dim))

    def forward(self, position: Tensor, labels: Tensor) -> Tensor:
        """position (N, 48, C), labels (N, 48) -> tokens (N, 48, C)."""
        half = labels.shape[1] // 2
        kinds = self.type_embedding.unsqueeze(1).expand(-1, half, -1).flatten(0, 1)  # (48, C)
        filled = (labels >= 0).unsqueeze(2)
        return torch.where(filled, position + kinds, self.empty_embedding)


class PreviousMask(nn.Module):
    """An embedding of the patch grid, from the previous mask (*ours*).

    Each patch gets a mixture of two embeddings, foreground and background, by the share of it that
    the mask covers. Without a previous mask, zero.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(2, config.prompt_dim))

    def forward(
        self, coverage: Tensor, has_previous: Tensor, layer: nn.Linear | None = None
    ) -> Tensor:
        """coverage (N, gh, gw) uint8, has_previous (N) bool -> (N, gh*gw, C).

        layer: multiply by the weights of this layer too, which costs next to nothing.
        """
        embedding: Tensor = self.embedding
        if layer is not None:
            embedding = F.linear(embedding.to(layer.weight.dtype), layer.weight)
        share = coverage.flatten(1).to(embedding.dtype) / 255
        shares = torch.stack((share, 1 - share), dim=2)
        known = has_previous.to(embedding.dtype).view(-1, 1, 1)
        return (shares * known) @ embedding


def gaussians(centres: Tensor, count: int, deviation: float, stride: int = 1) -> Tensor:
    """A Gaussian of height 1 around each centre, along one axis: (N, 48) -> (N, 48, count).

    centres, deviation: in network pixels. count: of cells, each of `stride` pixels.
    """
    cells = torch.arange(count, device=centres.device, dtype=centres.dtype)
    apart = centres.unsqueeze(2) - (cells * stride + (stride - 1) / 2)
    return torch.exp(apart**2 * (-0.5 / deviation**2))


class FinePrompts(nn.Module):
    """Clicks and previous mask for the two fine levels of the mask head (*ours*).

    Six maps per level: a sum of Gaussians around the positive clicks and one around the negative
    clicks, each narrow and wide; the share of each cell that the mask covers, and the rest. One 3x3
    convolution turns them into an addition to the level. A Gaussian is a product of a function of x
    and one of y, so a map is one small matrix product.
    """

    #: Level of the mask head -> cells along each side of a patch.
    SCALES: ClassVar[dict[int, int]] = {1: FINE_SCALE, 2: FINE_SCALE // 2}
    #: Standard deviations of the Gaussians, in cells of level 1.
    WIDTHS: ClassVar[tuple[float, float]] = (1.0, 4.0)

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.patch = config.patch
        maps = 2 * len(self.WIDTHS) + 2
        # Without bias: nothing changes where there is neither a click nor a mask.
        self.levels = nn.ModuleDict(
            {
                str(level): nn.Conv2d(maps, config.head_features, 3, padding=1, bias=False)
                for level in self.SCALES
            }
        )

    def forward(
        self, points: Tensor, labels: Tensor, coverage: Tensor, has_previous: Tensor
    ) -> dict[int, Tensor]:
        """points (N, 48, 2) network pixels, labels (N, 48), coverage (N, 4 gh, 4 gw) uint8,
        has_previous (N) bool -> {1: (N, f, 4 gh, 4 gw), 2: (N, f, 2 gh, 2 gw)}.
        """
        share = coverage.unsqueeze(1).to(points.dtype) / 255
        known = has_previous.to(points.dtype).view(-1, 1, 1, 1)
        added = {}
        for level, scale in self.SCALES.items():
            if scale < FINE_SCALE:
                share = F.avg_pool2d(share, FINE_SCALE // scale)
            mask = torch.cat((share, 1 - share), dim=1) * known
            rows, columns = share.shape[2:]
            clicks = self.click_maps(points, labels, rows, columns, self.patch // scale)
            added[level] = self.levels[str(level)](torch.cat((clicks, mask), dim=1))
        return added

    def click_maps(
        self, points: Tensor, labels: Tensor, rows: int, columns: int, stride: int
    ) -> Tensor:
        """(N, 4, rows, columns) at `stride`: positive and negative, narrow; the same, wide."""
        filled = (labels >= 0).to(points.dtype).unsqueeze(2)
        maps = []
        for width in self.WIDTHS:
            deviation = width * self.patch / FINE_SCALE
            along_x = gaussians(points[..., 0], columns, deviation, stride)
            along_y = gaussians(points[..., 1], rows, deviation, stride)
            along_y = (along_y * filled).unflatten(1, (2, labels.shape[1] // 2))
            along_x = along_x.unflatten(1, (2, labels.shape[1] // 2))
            maps.append(along_y.transpose(2, 3) @ along_x)  # (N, 2, rows, columns)
        return torch.cat(maps, dim=1)


class DensePrompts(nn.Module):
    """An embedding of the patch grid, from disks around the clicks."""

    reach: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.radius = config.disk_radius
        # Without bias, so that the embedding is exactly zero in patches without a disk.
        self.conv = nn.Conv2d(2, config.prompt_dim, config.patch, stride=config.patch, bias=False)
        # Offsets (column, row) from the first patch that a disk reaches to all that it can reach.
        # A buffer, because a constant in `forward` would be copied to the device on every click,
        # which a CUDA graph cannot contain.
        reach = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        self.register_buffer("reach", reach, persistent=False)

    def forward(self, points: Tensor, labels: Tensor, rows: int, columns: int) -> Tensor:
        """points (N, 48, 2) network pixels, labels (N, 48) -> (N, gh*gw, C)."""
        disks = self.disk_maps(points, labels, rows * self.patch, columns * self.patch)
        return self.conv(disks).flatten(2).transpose(1, 2)

    def disk_maps(self, points: Tensor, labels: Tensor, height: int, width: int) -> Tensor:
        """(N, 2, height, width): 1 within `radius` of a positive or negative click, else 0."""
        x = torch.arange(width, device=points.device, dtype=points.dtype)
        y = torch.arange(height, device=points.device, dtype=points.dtype)
        maps = []
        half = labels.shape[1] // 2
        for first in (0, half):
            near = torch.zeros(
                points.shape[0], height, width, dtype=torch.bool, device=points.device
            )
            for slot in range(first, first + half):
                dx = x.view(1, 1, -1) - points[:, slot, 0].view(-1, 1, 1)
                dy = y.view(1, -1, 1) - points[:, slot, 1].view(-1, 1, 1)
                inside = dx * dx + dy * dy <= self.radius**2
                near = near | (inside & (labels[:, slot] >= 0).view(-1, 1, 1))
            maps.append(near)
        return torch.stack(maps, dim=1).to(points.dtype)

    def local(
        self, points: Tensor, labels: Tensor, rows: int, columns: int
    ) -> tuple[Tensor, Tensor]:
        """The same embedding, only for the patches that a disk touches (rewrite R6).

        A disk is narrower than a patch, so a click touches at most 2x2 patches. Returns the touched
        patches, (N, 192) int64, and the embedding (N, 192, C) to add there. If several entries name
        the same patch, the first has its embedding and the others have zeros.
        """
        n, patch, slots = points.shape[0], self.patch, points.shape[1]
        filled = labels >= 0
        corner = torch.floor(
            (points + 0.5 - self.radius) / patch
        )  # the first patch that it reaches
        cell = (corner.unsqueeze(2) + self.reach).view(n, 4 * slots, 2)  # (column, row)
        owner = filled.unsqueeze(2).expand(-1, -1, 4).reshape(n, 4 * slots)
        column, row = cell[..., 0], cell[..., 1]
        valid = owner & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        index = torch.where(valid, row * columns + column, torch.zeros_like(row)).long()

        # Keep the first entry that names a patch: entry j is a repeat if an earlier i matches.
        same = (index.unsqueeze(2) == index.unsqueeze(1)) & valid.unsqueeze(1)  # [n, j, i]
        order = torch.arange(4 * slots, device=points.device)
        earlier = order.unsqueeze(0) < order.unsqueeze(1)  # i < j
        keep = valid & ~(same & earlier).any(2)

        inside = torch.arange(patch, device=points.device, dtype=points.dtype)
        x = column.unsqueeze(2) * patch + inside  # (N, 192, patch)
        y = row.unsqueeze(2) * patch + inside
        signs = []
        for half in (slice(0, slots // 2), slice(slots // 2, slots)):
            dx = x.unsqueeze(3) - points[:, None, None, half, 0]  # (N, 192, patch, 24)
            dy = y.unsqueeze(3) - points[:, None, None, half, 1]
            # Empty slots are moved far away, so that one comparison is enough.
            far = (~filled[:, None, None, half]).to(points.dtype) * 1e6
            distance = (dx * dx).unsqueeze(2) + (dy * dy + far).unsqueeze(3)
            signs.append(distance.amin(4) <= self.radius**2)  # (N, 192, patch y, patch x)
        disks = torch.stack(signs, dim=2).to(points.dtype).flatten(2)  # (N, 192, 2*patch*patch)
        weight = self.conv.weight.flatten(1)  # (C, 2*patch*patch)
        embedding = (disks @ weight.t()) * keep.unsqueeze(2).to(points.dtype)
        return index, embedding
