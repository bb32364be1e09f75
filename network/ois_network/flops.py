"""What a click costs, rewrite by rewrite, counted by running the real graph without numbers.

FLOPs and bytes are those of matrix products and convolutions, see `counting`; norms,
activations, softmax and resizing are not counted. Everything runs on the meta device, with
`EquationAttention`, whose products are counted one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ois_client.contract.clicks import SLOTS
from ois_client.contract.errors import InvalidInput
from ois_network.attention import EquationAttention, set_attention_ops
from ois_network.config import NetworkConfig
from ois_network.counting import count
from ois_network.network import OISNetwork
from ois_network.parameters import meta_network
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites

#: In the order in which they pay off; R4 comes last because it costs memory.
STEPS: tuple[tuple[str, str], ...] = (
    ("laterals", "R1 laterals encoded once"),
    ("project_first", "R2 1x1 before upsampling"),
    ("split_linear", "R3 fused levels split"),
    ("shared_bias", "R5 biases built once"),
    ("local_disks", "R6 local disks"),
    ("cached_kv", "R4 K and V cached"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    encode_flops: once an image. click_flops: every click, one object. state_bytes: what the
    image state takes in fp32; 0 where there is none. encode_bytes, click_bytes: what the
    counted operations read and write in fp32.
    """

    name: str
    encode_flops: int
    click_flops: int
    state_bytes: int
    encode_bytes: int
    click_bytes: int


@dataclass(frozen=True, slots=True)
class PartFlops:
    name: str
    flops: int


def click_flops(config: NetworkConfig, height: int, width: int) -> list[Row]:
    """From the unrewritten network to all rewrites, each row adding one, N = 1.

    height, width: network pixels, multiples of the patch. The first row is the network as the
    paper describes it: encoder and depth head once, everything else every click.
    """
    rows, columns = _grid(config, height, width)
    network = _network(config)
    image = _image(config, rows, columns)
    clicks = _clicks(rows, columns)
    encode = count(partial(network.encode, image[0].unsqueeze(0), *image[1:]))
    click = count(partial(network.click, encode.result, *clicks))
    table = [
        Row("the network as described", encode.flops, click.flops, 0, encode.bytes, click.bytes)
    ]
    rewrites = Rewrites.none()
    for field, name in STEPS:
        rewrites = replace(rewrites, **{field: True})
        if not getattr(rewrites.effective(config), field):
            continue  # this network cannot have it
        encoder, decoder = ImageEncoder(network, rewrites), ClickDecoder(network, rewrites)
        made = count(partial(encoder, *image))
        state = made.result
        used = count(partial(decoder, state, *clicks))
        stored = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        table.append(Row(f"+ {name}", made.flops, used.flops, stored, made.bytes, used.bytes))
    return table


def encoder_flops(config: NetworkConfig, height: int, width: int) -> list[PartFlops]:
    """The ViT and one DPT head, the two sizes that everything else is made of."""
    rows, columns = _grid(config, height, width)
    network = _network(config)
    image, pos_rows, pos_cols = _image(config, rows, columns)
    vit = count(partial(network.encoder, image.unsqueeze(0), pos_rows, pos_cols))
    head = count(partial(network.depth_head, vit.result))
    return [PartFlops("ViT", vit.flops), PartFlops("one DPT head", head.flops)]


def _network(config: NetworkConfig) -> OISNetwork:
    network = meta_network(config).eval()
    set_attention_ops(network, EquationAttention())
    return network


def _grid(config: NetworkConfig, height: int, width: int) -> tuple[int, int]:
    patch = config.patch
    if min(height, width) < patch or height % patch or width % patch:
        near = [max(1, round(side / patch)) * patch for side in (width, height)]
        raise InvalidInput(
            f"got the size {width}x{height}; both sides must be multiples of the patch size "
            f"{patch}, for example {near[0]}x{near[1]}"
        )
    return height // patch, width // patch


def _image(config: NetworkConfig, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    with torch.device("meta"):
        return (
            torch.empty(rows * config.patch, columns * config.patch, 3, dtype=torch.uint8),
            torch.empty(rows, config.position_table),
            torch.empty(columns, config.position_table),
        )


def _clicks(rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.device("meta"):
        return (
            torch.empty(1, SLOTS, 2),
            torch.empty(1, SLOTS, dtype=torch.int32),
            torch.empty(1, rows, columns, dtype=torch.uint8),
            torch.empty(1, dtype=torch.bool),
        )
