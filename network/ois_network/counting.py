"""FLOPs and bytes of whatever PyTorch runs, this network or another one.

Both are counted for matrix products and convolutions alone. FLOPs are 2 x multiply-adds, as
PyTorch's own counter reports them. Bytes are what these operations read and write when every
operand, weights and activations alike, crosses memory once; norms, activations, residuals and
resizing are not counted, since engines fuse them. Fused attention on a CPU is unknown to
PyTorch's counter: it is counted here as its two products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

T = TypeVar("T")

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True, slots=True)
class Counted(Generic[T]):
    """result: what the call returned. flops, bytes: what it cost, see the module."""

    result: T
    flops: int
    bytes: int


def count(run: Callable[[], T]) -> Counted[T]:
    """Run without gradients and count. Works on the meta device as well."""
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
            # Under inference mode composite operations arrive whole (linear, matmul).
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
    """query (B, H, Q, D), key (B, H, K, D), value (B, H, K, V): QKᵀ and its product with V."""
    query, key, value = (each.shape for each in args[:3])
    products = query[0] * query[1] * query[2] * key[2]
    return int(2 * products * (key[3] + value[3]))
