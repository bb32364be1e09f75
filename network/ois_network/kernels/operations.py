"""The kernels as attention operations: `set_attention_ops(decoder, KernelAttention())`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from ois_client.contract.clicks import SLOTS
from ois_network.attention import TorchAttention
from ois_network.config import NetworkConfig
from ois_network.kernels.choice import Blocks, Measurement, choose, read_measurements
from ois_network.kernels.slots import Call, Rows, SlotBias

#: Size and device of an attention -> blocks to run the kernels with, or None for PyTorch.
Choice = Callable[[Call, torch.device], Blocks | None]


class KernelAttention(TorchAttention):
    """Masked attention by the kernels where `choice` gives blocks, everything else by PyTorch.

    The default choice follows the measurements in this package (`choice.MEASURED`). On a CPU and
    on a GPU that was not measured it is always PyTorch. The click decoder uses the kernels only if
    K and V are cached (rewrite R4), because only that was measured.
    """

    def __init__(self, choice: Choice | None = None) -> None:
        self.choice = choice or measured_choice()

    def takes(self, call: Call, device: torch.device) -> bool:
        """As `SlotAttentionOps.takes`."""
        return self.choice(call, device) is not None

    def attend_slots(
        self, query: Tensor, key: Rows, value: Rows, heads: int, bias: SlotBias
    ) -> Tensor:
        """As `SlotAttentionOps.attend_slots`.

        Raises the `ValueError` of `launch.masked_attention`.
        """
        from ois_network.kernels.launch import masked_attention

        n, queries, channels = query.shape
        call = Call(n, queries, channels, key.base.shape[1], heads, query.dtype)
        return masked_attention(query, key, value, heads, bias, self.choice(call, query.device))


def measured_choice(rows: Sequence[Measurement] | None = None) -> Choice:
    """The choice by `rows`, which were measured on this device, or by the committed measurements.

    Raises `InvalidInput` if the committed measurements are damaged.
    """
    measured = read_measurements() if rows is None else {}

    @lru_cache(maxsize=256)
    def look_up(call: Call, device: torch.device) -> Blocks | None:
        capability = capability_of(device)
        return choose(measured.get(capability, []) if rows is None else rows, call)

    return look_up


def can_use_kernels(config: NetworkConfig) -> bool:
    """Whether the click decoder of this network has a use for the kernels."""
    attends = config.sparse and (config.order_attention or config.object_attention)
    masked = config.mask_empty_slots and config.uses_object_masks
    return attends and config.dense and not masked


def measured_for(
    config: NetworkConfig,
    dtype: torch.dtype,
    device: torch.device,
    rows: Sequence[Measurement] | None = None,
) -> bool:
    """Whether some click of this network, with products in `dtype`, runs the kernels on `device`.

    Only then is caching K and V (rewrite R4), which the kernels need, known to be worth its
    memory. Only measurements of this network's sizes and this dtype count. rows: as for
    `measured_choice`.
    """
    if not can_use_kernels(config):
        return False
    if rows is None:
        rows = read_measurements().get(capability_of(device), [])
    side = config.longest // config.patch
    sizes = itertools.product({row.call.objects for row in rows}, range(1, side + 1))
    return any(
        choose(rows, Call(n, SLOTS, config.prompt_dim, side * other, config.fusion_heads, dtype))
        for n, other in sizes
    )


def capability_of(device: torch.device) -> str:
    """The compute capability, such as "9.0"; empty if the kernels cannot run on this device."""
    if device.type != "cuda" or find_spec("triton") is None:
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"
