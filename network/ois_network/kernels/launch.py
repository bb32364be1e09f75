"""Launches the kernels: checks shapes, chooses blocks and allocates buffers.

The tensors must be on a CUDA device. If `TRITON_INTERPRET=1` is set in the environment before
Triton is imported, the same kernels run on CPU tensors, slowly; they are tested that way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ois_network.kernels import language
from ois_network.kernels.choice import Blocks
from ois_network.kernels.slots import Rows, SlotBias

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
#: The keys are divided until every multiprocessor has this many programs. As many run at once on
#: every architecture, which `tests/network/kernels/test_cubins.py` checks.
PROGRAMS_PER_MULTIPROCESSOR = 2
_LARGEST_TILE = 64


def default_blocks(
    objects: int, heads: int, queries: int, keys: int, multiprocessors: int, own_share: bool = False
) -> Blocks:
    """Blocks that divide the keys into enough shares to fill the GPU.

    own_share: the share of the touched patches is launched, too. Then there is one share less, so
    that all programs run at once. A rule of thumb: `ois bench kernels` measures which blocks are
    fastest.
    """
    rows = min(_LARGEST_TILE, max(16, 1 << (queries - 1).bit_length()))
    columns = 64  # 128 would spill registers
    programs = objects * heads * -(-queries // rows)
    wanted = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors // programs - own_share
    return Blocks(rows, columns, max(1, min(wanted, -(-keys // columns))))


def sum_tile(shares: int) -> tuple[int, int]:
    """The shares in a tile of `language.add_shares`, and its warps: 64 numbers per thread."""
    tile = max(16, 1 << (shares - 1).bit_length())
    return tile, min(16, max(1, tile // 64))


def masked_attention(
    query: Tensor,
    key: Rows,
    value: Rows,
    heads: int,
    bias: SlotBias,
    blocks: Blocks | None = None,
) -> Tensor:
    """softmax(Q Kᵀ/√d + bias) V by the kernels: query (N, Q, C) -> (N, Q, C) in the same dtype.

    fp16, bf16 or fp32, accumulated in fp32. d = C / heads is a power of two, at least 16. K and V
    are of N objects or 1, see `slots.Rows`. The output is 0 for a slot that may attend to no key.
    Raises `ValueError` for shapes, dtypes and layouts that the kernels do not support.
    """
    slots, touched = bias.slots, bias.slots.touched
    n, queries, channels = query.shape
    keys = key.base.shape[1]
    _check(query, key, value, heads, bias)
    parts = 0 if touched is None or key.part is None else touched.index.shape[1]
    if blocks is None:
        count = _multiprocessors(query.device)
        blocks = default_blocks(n, heads, queries, keys, count, parts > 0)
    order, shares = bias.sigma is not None, blocks.splits + (parts > 0)
    dim = channels // heads
    out = torch.empty_like(query)
    direct = shares == 1
    # Unused parameters still need an address. They get that of a tensor that nothing reads there.
    sums = stats = query
    if not direct:
        sums = query.new_empty(n, heads, shares, queries, dim, dtype=torch.float32)
        stats = query.new_empty(n, heads, shares, queries, 2, dtype=torch.float32)
    tiles = -(-queries // blocks.queries)
    language.masked_attention[(shares, heads * tiles, n)](
        query,
        key.base,
        value.base,
        _or(key.part if parts else None, query),
        _or(value.part if parts else None, query),
        slots.labels,
        _or(slots.centres if order else None, query),
        _or(slots.depth if order else None, query),
        _or(bias.sigma, query),
        _or(slots.visible if bias.allow else None, slots.labels),
        slots.labels if touched is None else touched.bits,
        slots.labels if touched is None else touched.index,
        slots.labels if touched is None else touched.fresh.view(torch.int8),
        out,
        sums,
        stats,
        queries,
        keys,
        parts,
        blocks.splits,
        dim**-0.5,
        HEADS=heads,
        DIM=dim,
        BLOCK_Q=blocks.queries,
        BLOCK_K=blocks.keys,
        KEYS_SHARED=key.base.shape[0] == 1,
        DEPTH_SHARED=slots.depth is None or slots.depth.shape[0] == 1,
        SIGMA_PER_HEAD=bias.sigma is not None and bias.sigma.numel() > 1,
        ORDER=order,
        ALLOW=bias.allow and slots.visible is not None,
        PARTS=parts > 0,
        SKIP=blocks.skip,
        DIRECT=direct,
        PRECISION="ieee",
        WIDEN=query.device.type == "cpu",
        num_warps=blocks.warps,
        num_stages=blocks.stages,
    )
    if not direct:
        tile, warps = sum_tile(shares)
        language.add_shares[(queries, heads, n)](
            sums, stats, out, queries, shares, HEADS=heads, DIM=dim, BLOCK_S=tile, num_warps=warps
        )
    return out


def _or(tensor: Tensor | None, substitute: Tensor) -> Tensor:
    return substitute if tensor is None else tensor


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1  # the interpreter runs one program at a time
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _check(query: Tensor, key: Rows, value: Rows, heads: int, bias: SlotBias) -> None:
    slots = bias.slots
    n, queries, channels = query.shape
    dim = channels // heads
    keys = key.base.shape[1]
    if channels % heads or dim < 16 or dim & (dim - 1):
        raise ValueError(
            f"got {channels} channels in {heads} heads; expected a power of two, at least 16, "
            "in each head"
        )
    if query.dtype not in _FLOATS:
        raise ValueError(f"got queries in {query.dtype}; expected fp16, bf16 or fp32")
    objects = (1, n)
    expected: list[tuple[str, Tensor | None, tuple[int | tuple[int, ...], ...], torch.dtype]] = [
        ("query", query, (n, queries, channels), query.dtype),
        ("key", key.base, (objects, keys, channels), query.dtype),
        ("value", value.base, (objects, keys, channels), query.dtype),
        ("labels", slots.labels, (n, queries), torch.int32),
    ]
    if key.base.shape[0] != value.base.shape[0]:
        raise ValueError(
            f"got keys of {key.base.shape[0]} and values of {value.base.shape[0]} objects; "
            "expected the same"
        )
    words = -(-keys // 32)
    if bias.sigma is not None:
        if slots.depth is None or slots.centres is None:
            raise ValueError("got sigma without depth and centres; expected all or none of them")
        expected += [
            ("sigma", bias.sigma.view(-1), ((1, heads),), torch.float32),
            ("depth", slots.depth, (objects, keys), torch.float32),
            ("centres", slots.centres, (n, queries), torch.float32),
        ]
    if bias.allow and slots.visible is not None:
        expected.append(("visible", slots.visible, (n, 2, words), torch.int32))
    if (key.part is None) != (value.part is None):
        raise ValueError("got a part of only one of K and V; expected both or neither")
    if key.part is not None:
        if slots.touched is None:
            raise ValueError(
                "got parts of K and V without the patches to which they belong (slots.touched)"
            )
        parts = slots.touched.index.shape[1]
        expected += [
            ("key part", key.part, (n, parts, channels), query.dtype),
            ("value part", value.part, (n, parts, channels), query.dtype),
            ("touched patches", slots.touched.index, (n, parts), torch.int32),
            ("fresh entries", slots.touched.fresh, (n, parts), torch.bool),
            ("touched bits", slots.touched.bits, (n, words), torch.int32),
        ]
    for name, tensor, shape, dtype in expected:
        if tensor is None:
            continue
        fits = tensor.dim() == len(shape) and all(
            size in (allowed if isinstance(allowed, tuple) else (allowed,))
            for size, allowed in zip(tensor.shape, shape, strict=True)
        )
        if not fits or tensor.dtype is not dtype:
            raise ValueError(
                f"got {name} {tuple(tensor.shape)} {tensor.dtype}; expected {shape} {dtype}"
            )
        if not tensor.is_contiguous() or tensor.device != query.device:
            raise ValueError(
                f"got {name} on {tensor.device} with strides {tensor.stride()}; expected it "
                f"contiguous and on {query.device}"
            )
