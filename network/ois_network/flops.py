"""Floating-point operations and bytes, counted by running the real code.

`count` works on whatever PyTorch runs, this network or another one. `click_flops` is the table of
what a click costs with each rewrite; it runs on the meta device, so without numbers.

Only matrix products and convolutions are counted. FLOPs are 2 x multiply-adds, as PyTorch's own
counter reports them. Bytes are what these operations read and write if every operand, weights and
activations alike, crosses memory once. Norms, activations, softmax, residuals and resizing are
not counted, because engines fuse them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ois_client.contract.clicks import SLOTS, Prompts
from ois_client.contract.errors import InvalidInput
from ois_network.attention import EquationAttention, set_attention_ops
from ois_network.config import NetworkConfig
from ois_network.network import OISNetwork
from ois_network.parameters import meta_network
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites

T = TypeVar("T")

#: The fewest slots of an object in engines for CPUs (`ois_runtime.engines.slots`).
CPU_SLOTS = 8

#: PyTorch's counter does not know fused attention on a CPU: it is counted as its two products.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

#: Field of `Rewrites` -> its name, by how much they save. R4 comes last: it costs memory.
STEPS: tuple[tuple[str, str], ...] = (
    ("laterals", "R1 laterals encoded once"),
    ("project_first", "R2 1x1 before upsampling"),
    ("split_linear", "R3 fused levels split"),
    ("shared_bias", "R5 biases built once"),
    ("local_disks", "R6 local disks"),
    ("cached_kv", "R4 K and V cached"),
)


@dataclass(frozen=True, slots=True)
class Counted(Generic[T]):
    """The result of a call, and what the call cost (see the top of this file)."""

    result: T
    flops: int
    bytes: int


def count(run: Callable[[], T]) -> Counted[T]:
    """Call `run` without gradients and count. It may work on the meta device."""
    with torch.no_grad(), _Counter() as counter:
        result = run()
    return Counted(result, counter.flops, counter.bytes)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        operation = func._overloadpacket
        known = operation in flop_registry or operation is _CPU_ATTENTION
        if not known and func is not torch.ops.prim.device.default:
            # In inference mode composite operations (linear, matmul) arrive undecomposed.
            with self:
                parts = func.decompose(*args, **given)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **given)
        if known:
            self.flops += _attention_flops(args) if operation is _CPU_ATTENTION else int(
                flop_registry[operation](*args, **given, out_val=out)
            )  # fmt: skip
            self.bytes += sum(
                leaf.numel() * leaf.element_size()
                for leaf in tree_leaves((args, given, out))
                if isinstance(leaf, Tensor)
            )
        return out


def _attention_flops(args: tuple[Any, ...]) -> int:
    """Q Kᵀ and the product with V. query (B, H, Q, D), key (B, H, K, D), value (B, H, K, V)."""
    query, key, value = (each.shape for each in args[:3])
    products = query[0] * query[1] * query[2] * key[2]
    return int(2 * products * (key[3] + value[3]))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: the cost of a network with some of the rewrites.

    encode_flops: per image. click_flops: per click on one object. state_bytes: size of the image
    state in fp32, 0 where there is none. encode_bytes, click_bytes: what the counted operations
    read and write in fp32.
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
    """The cost of a click on one object, from the unrewritten network to all rewrites.

    height, width: network pixels. The first row is the network as the paper describes it: encoder
    and depth head run once, everything else on every click. Each further row adds one rewrite.
    Raises `InvalidInput` if a side is not a multiple of the patch size.
    """
    rows, columns = _grid(config, height, width)
    network = _network(config)
    image = _image(config, rows, columns)
    prompts = _prompts(config, rows, columns)
    encode = count(partial(network.encode, image[0].unsqueeze(0), *image[1:]))
    click = count(partial(network.click, encode.result, prompts))
    table = [
        Row("the network as described", encode.flops, click.flops, 0, encode.bytes, click.bytes)
    ]
    rewrites = Rewrites.none()
    for field, name in STEPS:
        rewrites = replace(rewrites, **{field: True})
        if not getattr(rewrites.effective(config), field):
            continue  # not possible with this network
        encoder, decoder = ImageEncoder(network, rewrites), ClickDecoder(network, rewrites)
        made = count(partial(encoder, *image))
        state = made.result
        used = count(partial(decoder, state, *prompts))
        stored = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        table.append(Row(f"+ {name}", made.flops, used.flops, stored, made.bytes, used.bytes))
    return table


def cpu_click_flops(config: NetworkConfig, height: int, width: int) -> Row | None:
    """The cost of an object's first clicks in engines for CPUs: R7 and R8 instead of R4.

    An object has `CPU_SLOTS` slots: at most four clicks of each sign. None if the network has no
    attention to save on. Raises as `click_flops`.
    """
    rows, columns = _grid(config, height, width)
    network = _network(config)
    rewrites = Rewrites(few_slots=True, project_tokens=True).effective(config)
    if not rewrites.project_tokens:
        return None
    image = _image(config, rows, columns)
    slots = CPU_SLOTS if rewrites.few_slots else SLOTS
    made = count(partial(ImageEncoder(network, rewrites), *image))
    prompts = _prompts(config, rows, columns, slots)
    used = count(partial(ClickDecoder(network, rewrites), made.result, *prompts))
    stored = sum(tensor.numel() * tensor.element_size() for tensor in made.result.values())
    name = "R7, R8 few slots, tokens projected; without R4"
    return Row(name, made.flops, used.flops, stored, made.bytes, used.bytes)


def encoder_flops(config: NetworkConfig, height: int, width: int) -> list[PartFlops]:
    """FLOPs of the image encoder and of one DPT head.

    height, width: network pixels. Raises `InvalidInput` if a side is not a multiple of the patch
    size.
    """
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


def _prompts(config: NetworkConfig, rows: int, columns: int, slots: int = SLOTS) -> Prompts[Tensor]:
    scale = config.coverage_scale
    with torch.device("meta"):
        return Prompts(
            points=torch.empty(1, slots, 2),
            labels=torch.empty(1, slots, dtype=torch.int32),
            coverage=torch.empty(1, scale * rows, scale * columns, dtype=torch.uint8),
            has_previous=torch.empty(1, dtype=torch.bool),
        )
