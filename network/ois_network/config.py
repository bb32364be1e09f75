"""The config of a network: one frozen dataclass, stored in every checkpoint.

The paper gives ViT-B, four encoder levels, 48 slots, C-dimensional prompts and three fusion
blocks. Choices that it leaves open are marked *ours*. What its ablations remove is a switch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ois_client.contract.clicks import SLOTS_PER_SIGN
from ois_client.contract.errors import CheckpointError
from ois_client.contract.geometry import Geometry


class FusionOrder(StrEnum):
    """Which attention comes first in a fusion block; the paper's text and figure differ."""

    ORDER_FIRST = "order_first"
    OBJECT_FIRST = "object_first"


class EncoderFamily(StrEnum):
    """Which image encoder a network has."""

    DINOV2 = "dinov2"  # the paper's: every level on the patch grid
    TINYVIT = "tinyvit"  # TinyViT-5M: levels at strides 4, 8, 16, 16


#: Family -> channels of the four levels, and how many times finer than the patch grid each is.
#: A DINOv2 encoder has `embed_dim` channels at every level, on the patch grid.
_HIERARCHICAL = {EncoderFamily.TINYVIT: ((64, 128, 160, 256), (4, 2, 1, 1))}


_MAY_BE_ZERO = ("depth_blocks", "detail_channels", "position_longest")

#: How many times finer than the patch grid level 1 of the mask head is.
FINE_SCALE = 4


class ImageUpdate(StrEnum):
    """When the image features attend to the prompt tokens (*ours*: the paper does not say)."""

    ONCE = "once"
    EACH_BLOCK = "each_block"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Dimensions and switches of an OIS network.

    longest: the network size, in pixels of the image's longest side; a multiple of `patch`. The
    fields of encoder and heads have Depth-Anything-V2's names. Raises `CheckpointError` for
    impossible values.
    """

    name: str = "vitb"
    longest: int = 1022
    # encoder; the fields below it describe DINOv2's ViT ------------------------------------
    encoder: EncoderFamily = EncoderFamily.DINOV2
    embed_dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    out_layers: tuple[int, int, int, int] = (2, 5, 8, 11)
    patch: int = 14
    position_table: int = 37
    # the two DPT heads ---------------------------------------------------------------------
    head_features: int = 128
    head_channels: tuple[int, int, int, int] = (96, 192, 384, 768)
    # The heads' last convolutions run at 1 / `output_stride` of the network size; the result is
    # enlarged. The paper's is 1. With 2 (*ours*) a click costs half as much.
    output_stride: int = 1
    # How the heads enlarge their maps. True, as in DPT: the outer samples of both maps lie on each
    # other. Then a map of stride s is stretched by s pixels over the whole image, so that its
    # features fit the pixels at the left and not at the right, and convolutions, which are the same
    # everywhere, cannot correct this. False (*ours*): pixel centres correspond ("half pixel").
    aligned_corners: bool = True
    # Channels of a map of details at `output_stride`, taken from the pixels by three convolutions
    # and shown to the mask head before its last ones; 0: none (*ours*). The encoder's finest level
    # has stride 4 or coarser.
    detail_channels: int = 0
    # prompts and fusion --------------------------------------------------------------------
    prompt_dim: int = 256
    # The length in network pixels that positions of clicks and patches are relative to; 0 means
    # `longest`. So `longest` can be changed without training.
    position_longest: int = 0
    fusion_heads: int = 8
    fusion_blocks: int = 3
    fusion_ffn: int = 1024
    disk_radius: float = 5.0
    sigma_init: float = 4.0
    fused_levels: tuple[int, ...] = (3, 4)
    fusion_order: FusionOrder = FusionOrder.ORDER_FIRST
    image_update: ImageUpdate = ImageUpdate.ONCE
    # Whether the previous mask is also a dense prompt, one embedding for foreground and one for
    # background (*ours*; SegNext and SAM have it). The paper shows the mask to attention alone.
    previous_mask: bool = False
    # Whether clicks and the previous mask also reach the two fine levels of the mask head, as maps
    # at 4 and 2 times the patch grid (*ours*; SAM and SegNext show their masks at stride 4). Then
    # the coverage, too, has 4x4 cells per patch. Without them, a click moves details of a few
    # pixels only through features of whole patches.
    fine_prompts: bool = False
    # Whether a clicked pixel is always on the side that its click says (*ours*; `keep_clicks.py`).
    keep_clicks: bool = False
    # ablations of the paper's Table 4: the attention modules, and the two kinds of prompts ----
    order_attention: bool = True
    object_attention: bool = True
    sparse: bool = True
    dense: bool = True
    # Whether the object masks also cover empty slots, those of each half of the 48. The paper's
    # text can be read so; *ours* is that an empty slot may attend to every patch.
    mask_empty_slots: bool = False
    # *Ours*: only what the modules add to their logits, order maps and object masks. The modules
    # and their parameters stay.
    order: bool = True
    object: bool = True
    # Table 5: another way to use depth, as features. `depth_blocks` is the number of transformer
    # blocks of that encoder; 0 (*ours*): two convolutions.
    depth_encoder: bool = False
    depth_blocks: int = 0

    def __post_init__(self) -> None:
        sizes = {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if isinstance(value, int)
            and not isinstance(value, bool)
            and value < (0 if key in _MAY_BE_ZERO else 1)
        }
        if sizes:
            raise CheckpointError(f"impossible network config: {sizes} must be at least 1")
        problems = []
        if self.longest % self.patch or self.longest < self.patch:
            problems.append(f"longest={self.longest} is not a multiple of patch={self.patch}")
        if self.embed_dim % self.heads:
            problems.append(f"embed_dim={self.embed_dim} is not divisible by heads={self.heads}")
        if self.prompt_dim % self.fusion_heads or self.prompt_dim % 2:
            problems.append(
                f"prompt_dim={self.prompt_dim} must be even and divisible by "
                f"fusion_heads={self.fusion_heads}"
            )
        layers = list(self.out_layers)
        rising = layers == sorted(set(layers)) and set(layers) <= set(range(self.depth))
        if len(layers) != 4 or not rising:
            problems.append(
                f"out_layers={self.out_layers} must be four rising numbers in 0..{self.depth - 1}"
            )
        if self.encoder in _HIERARCHICAL:
            channels = _HIERARCHICAL[self.encoder][0][3]
            if self.patch != 16 or self.embed_dim != channels:
                problems.append(
                    f"patch={self.patch} and embed_dim={self.embed_dim} must be 16 and {channels} "
                    f"for the encoder {self.encoder}"
                )
            if not set(self.fused_levels) <= {3, 4}:
                problems.append(
                    f"fused_levels={self.fused_levels} must be 3, 4 or both: the levels of "
                    f"{self.encoder} that lie on the patch grid"
                )
        if self.fine_prompts and self.patch % FINE_SCALE:
            problems.append(
                f"patch={self.patch} must be a multiple of {FINE_SCALE} with fine_prompts"
            )
        if self.patch % self.output_stride:
            problems.append(
                f"output_stride={self.output_stride} does not divide patch={self.patch}"
            )
        if len(list(self.head_channels)) != 4:
            problems.append(f"head_channels={self.head_channels} must have four entries")
        if not set(self.fused_levels) <= {1, 2, 3, 4} or not self.fused_levels:
            problems.append(f"fused_levels={self.fused_levels} must be some of 1, 2, 3, 4")
        if self.depth_blocks and not self.depth_encoder:
            problems.append(f"depth_blocks={self.depth_blocks} needs depth_encoder=True")
        if not (self.sparse or self.dense):
            problems.append("sparse and dense are both off, so clicks could not change the mask")
        if not 0 < 2 * self.disk_radius < self.patch:
            problems.append(
                f"disk_radius={self.disk_radius} must be positive and less than half a patch"
            )
        if problems:
            raise CheckpointError("impossible network config: " + "; ".join(problems))

    @property
    def level_channels(self) -> tuple[int, int, int, int]:
        """Channels of the encoder's four levels."""
        if self.encoder in _HIERARCHICAL:
            return _HIERARCHICAL[self.encoder][0]
        return (self.embed_dim,) * 4

    @property
    def level_scales(self) -> tuple[int, int, int, int]:
        """How many times finer than the patch grid each of the four levels is."""
        return _HIERARCHICAL[self.encoder][1] if self.encoder in _HIERARCHICAL else (1, 1, 1, 1)

    @property
    def uses_order_maps(self) -> bool:
        """Whether a click needs M of Equation 3."""
        return self.sparse and self.order_attention and self.order

    @property
    def uses_object_masks(self) -> bool:
        """Whether a click needs the mask of Equation 4."""
        return self.sparse and self.object_attention and self.object

    @property
    def coverage_scale(self) -> int:
        """Cells of the coverage along each side of a patch."""
        return FINE_SCALE if self.fine_prompts else 1

    @property
    def coverage_stride(self) -> int:
        """Side of a cell of the coverage in network pixels."""
        return self.patch // self.coverage_scale

    def fit(self, width: int, height: int, longest: int | None = None) -> Geometry:
        """The geometry of a `width` x `height` image. longest: default the network's own.

        Raises as `Geometry.fit`.
        """
        return Geometry.fit(
            width,
            height,
            longest=longest or self.longest,
            patch=self.patch,
            coverage_scale=self.coverage_scale,
        )

    @property
    def slots_per_sign(self) -> int:
        return SLOTS_PER_SIGN

    def replace(self, **changes: Any) -> NetworkConfig:
        """A copy with other values for some fields."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        plain: dict[str, Any] = {}
        for key, value in dataclasses.asdict(self).items():
            if isinstance(value, tuple):
                value = list(value)
            plain[key] = str(value) if isinstance(value, str) else value
        return plain

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NetworkConfig:
        """The inverse of `to_dict`. Raises `CheckpointError` for unknown fields and wrong types."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise CheckpointError(
                f"the network config has unknown fields {unknown}; a newer version of this toolkit "
                "may have written it: update ois-deploy"
            )
        defaults = cls()
        values: dict[str, Any] = {}
        for key, value in data.items():
            default = getattr(defaults, key)
            try:
                if isinstance(default, tuple):
                    values[key] = tuple(int(item) for item in value)
                elif isinstance(default, StrEnum):
                    values[key] = type(default)(value)
                elif isinstance(default, bool) and not isinstance(value, bool):
                    raise TypeError("expected true or false")
                else:
                    values[key] = type(default)(value)
            except (TypeError, ValueError) as error:
                raise CheckpointError(
                    f"the network config's field {key!r} is {value!r}: {error}"
                ) from None
        return cls(**values)


#: `vits`, `vitb` and `vitl` are Depth-Anything-V2's sizes. `tiny` and `photo` are ours: `photo` has
#: a TinyViT encoder pretrained on photographs.
PRESETS: dict[str, NetworkConfig] = {
    "tiny": NetworkConfig(
        name="tiny",
        longest=448,
        embed_dim=192,
        depth=6,
        heads=3,
        out_layers=(1, 2, 4, 5),
        head_features=32,
        head_channels=(24, 48, 96, 192),
        prompt_dim=128,
        fusion_ffn=512,
    ),
    "photo": NetworkConfig(
        name="photo",
        longest=704,
        position_longest=576,
        encoder=EncoderFamily.TINYVIT,
        embed_dim=256,
        heads=8,
        patch=16,
        head_features=48,
        head_channels=(48, 64, 128, 256),
        output_stride=2,
        aligned_corners=False,
        detail_channels=8,
        prompt_dim=128,
        fusion_ffn=512,
        previous_mask=True,
        fine_prompts=True,
        keep_clicks=True,
    ),
    "vits": NetworkConfig(
        name="vits",
        embed_dim=384,
        heads=6,
        head_features=64,
        head_channels=(48, 96, 192, 384),
    ),
    "vitb": NetworkConfig(),
    "vitl": NetworkConfig(
        name="vitl",
        embed_dim=1024,
        depth=24,
        heads=16,
        out_layers=(4, 11, 17, 23),
        head_features=256,
        head_channels=(256, 512, 1024, 1024),
    ),
}


def preset(name: str) -> NetworkConfig:
    """The preset of this name. Raises `CheckpointError` if there is none."""
    try:
        return PRESETS[name]
    except KeyError:
        raise CheckpointError(
            f"got the network {name!r}; expected one of {', '.join(PRESETS)}"
        ) from None
