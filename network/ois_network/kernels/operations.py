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

#: Attention of some size on some device -> how to run the kernels, or None for not at all.
Choice = Callable[[Call, torch.device], Blocks | None]


class KernelAttention(TorchAttention):
    """The kernels for masked attention where `choice` says so, PyTorch for all else.

    The default choice follows the measurements that this package carries (`choice.MEASURED`):
    on an architecture that was not measured, and on a CPU, this is `TorchAttention`. The click
    decoder asks only where K and V are cached (rewrite R4), as that is what was measured.
    """

    def __init__(self, choice: Choice | None = None) -> None:
        self.choice = choice or measured_choice()

    def takes(self, call: Call, device: torch.device) -> bool:
        """As `SlotAttentionOps.takes`."""
        return self.choice(call, device) is not None

    def attend_slots(
        self, query: Tensor, key: Rows, value: Rows, heads: int, bias: SlotBias
    ) -> Tensor:
        """As `SlotAttentionOps.attend_slots`. Raises `ValueError` as `launch.masked_attention`."""
        from ois_network.kernels.launch import masked_attention

        n, queries, channels = query.shape
        call = Call(n, queries, channels, key.base.shape[1], heads, query.dtype)
        return masked_attention(query, key, value, heads, bias, self.choice(call, query.device))


def measured_choice() -> Choice:
    """What the committed measurements say. Raises `InvalidInput` when they are damaged."""
    measured = read_measurements()

    @lru_cache(maxsize=256)
    def look_up(call: Call, device: torch.device) -> Blocks | None:
        return choose(measured.get(_capability(device), []), call)

    return look_up


def measured_for(config: NetworkConfig, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether some click of this network, with products in `dtype`, would run the kernels here.

    Only then is it known that caching K and V (rewrite R4), which the kernels build on, is
    worth its memory. Measurements of another network or dtype say nothing, and neither do those
    of more or fewer patches than this network's images can have.
    """
    if not config.dense:
        return False  # the decoder hands the kernels K and V with the disks' part, or nothing
    rows = read_measurements().get(_capability(device), [])
    side = config.longest // config.patch
    sizes = itertools.product({row.call.objects for row in rows}, range(1, side + 1))
    return any(
        choose(rows, Call(n, SLOTS, config.prompt_dim, side * other, config.fusion_heads, dtype))
        for n, other in sizes
    )


def _capability(device: torch.device) -> str:
    """As the table names it; empty where the kernels cannot run."""
    if device.type != "cuda" or find_spec("triton") is None:
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"
