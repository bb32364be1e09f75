"""The kernels as attention operations: `set_attention_ops(decoder, KernelAttention())`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from ois_client.contract.clicks import SLOTS
from ois_network.attention import TorchAttention
from ois_network.config import NetworkConfig
from ois_network.kernels.choice import Blocks, choose, read_measurements
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


def measured_choice() -> Choice:
    """The choice by the committed measurements. Raises `InvalidInput` if they are damaged."""
    measured = read_measurements()

    @lru_cache(maxsize=256)
    def look_up(call: Call, device: torch.device) -> Blocks | None:
        return choose(measured.get(_capability(device), []), call)

    return look_up


def measured_for(config: NetworkConfig, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether some click of this network, with products in `dtype`, runs the kernels on `device`.

    Only then is caching K and V (rewrite R4), which the kernels need, known to be worth its
    memory. Only measurements of this network's sizes and this dtype count.
    """
    if not config.dense or (config.mask_empty_slots and config.uses_object_masks):
        return False  # then the decoder does not use the kernels
    rows = read_measurements().get(_capability(device), [])
    side = config.longest // config.patch
    sizes = itertools.product({row.call.objects for row in rows}, range(1, side + 1))
    return any(
        choose(rows, Call(n, SLOTS, config.prompt_dim, side * other, config.fusion_heads, dtype))
        for n, other in sizes
    )


def _capability(device: torch.device) -> str:
    """The compute capability, such as "9.0"; empty if the kernels cannot run on this device."""
    if device.type != "cuda" or find_spec("triton") is None:
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"
