"""One attention of random numbers by the kernels and by the equations, in whichever process.

Imports Triton only inside `run` and `run_network`: the interpreter, which runs kernels on a CPU,
must be chosen in the environment before that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from network_scenes import (
    SMALL,
    position_matrices,
    random_image,
    random_network,
    random_prompts,
    relative_error,
)
from ois_network.attention import set_attention_ops
from ois_network.config import FusionOrder
from ois_network.half import lower_precision
from ois_network.kernels.choice import Blocks
from ois_network.kernels.reference import masked_attention as equation
from ois_network.kernels.slots import Call, Rows, SlotBias, Slots, Touched, visible_bits
from ois_network.order import blocked_keys, order_maps
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites, add_at

torch.set_num_threads(1)


BLOCKS = Blocks(64, 32, 2)


@dataclass(frozen=True)
class Case:
    """An attention with 24 positive and 24 negative slots, of which some are empty.

    sigma: None for no order bias, one number, or one a head. covered: share of the patches
    that the previous mask covers wholly, None for no object mask; the others it leaves empty.
    touched: entries of disks an object, of which one is unused and one names a patch twice.
    """

    objects: int = 2
    keys: int = 80
    heads: int = 2
    dim: int = 16
    dtype: torch.dtype = torch.float32
    sigma: float | tuple[float, ...] | None = 4.0
    covered: float | None = 0.5
    clicks: tuple[int, int] = (3, 2)
    touched: int = 0
    shared: bool = True
    blocks: Blocks = BLOCKS
    seed: int = 0


@dataclass(frozen=True)
class Attention:
    """The tensors of a case: K and V with their disks' part, D, the old mask."""

    case: Case
    query: Tensor
    key: Rows
    value: Rows
    bias: SlotBias
    coverage: Tensor
    has_previous: Tensor


def make(case: Case) -> Attention:
    draw = torch.Generator().manual_seed(case.seed)
    n, channels = case.objects, case.heads * case.dim

    def rows(*shape: int) -> Tensor:
        return torch.randn(*shape, channels, generator=draw).to(case.dtype)

    labels = torch.full((n, 48), -1, dtype=torch.int32)
    labels[:, : case.clicks[0]] = 1
    labels[:, 24 : 24 + case.clicks[1]] = 0
    has_previous = torch.ones(n, dtype=torch.bool)
    has_previous[1:2] = False  # the second object, if any, has no mask yet
    covered = torch.rand(n, 1, case.keys, generator=draw) < (case.covered or 0)
    coverage = covered.to(torch.uint8) * 255
    base = (1 if case.shared else n, case.keys)
    key, value = rows(*base), rows(*base)
    touched = key_part = value_part = None
    if case.touched:
        index = torch.randint(0, case.keys, (n, case.touched), generator=draw)
        index[:, -1] = index[:, 0]
        first = (index.unsqueeze(2) == index.unsqueeze(1)).int().argmax(2)
        counts = first == torch.arange(case.touched)
        counts[:, case.touched // 2] = False
        touched = Touched.of(index, counts.unsqueeze(2).float(), case.keys)
        key_part, value_part = rows(n, case.touched), rows(n, case.touched)
    slots = Slots(
        labels,
        case.keys,
        torch.rand(1, case.keys, generator=draw),
        torch.rand(n, 48, generator=draw),
        visible_bits(coverage, has_previous),
        touched,
    )
    sigma = None if case.sigma is None else torch.tensor(case.sigma).reshape(-1)
    return Attention(
        case,
        rows(n, 48),
        Rows(key, key_part),
        Rows(value, value_part),
        SlotBias(slots, sigma, allow=case.covered is not None),
        coverage,
        has_previous,
    )


def unpack_bits(words: Tensor, count: int) -> Tensor:
    """The inverse of `slots.pack_bits`: words (..., W) int32 -> (..., count) bool."""
    flags = (words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32)) & 1
    return flags.flatten(-2)[..., :count].bool()


def written(rows: Rows, touched: Touched | None) -> Tensor:
    """K or V of every object, (N or 1, K, C)."""
    if rows.part is None or touched is None:
        return rows.base
    part = rows.part * touched.fresh.unsqueeze(2)
    return add_at(rows.base.expand(len(part), -1, -1), touched.index.long(), part)


def expected(made: Attention) -> Tensor:
    """float64, by the equations and by the network's own rules for M and B."""
    slots, case = made.bias.slots, made.case
    order = blocked = None
    sigma = made.bias.sigma
    if slots.depth is not None and slots.centres is not None and sigma is not None:
        order = order_maps(slots.depth.double(), slots.centres.double(), slots.labels)
    if case.covered is not None:
        blocked = blocked_keys(made.coverage, made.has_previous, slots.labels)
    return equation(
        made.query.double(),
        written(made.key, slots.touched).double(),
        written(made.value, slots.touched).double(),
        case.heads,
        order=order,
        sigma=0.0 if sigma is None else sigma.double(),
        blocked=blocked,
    )


def run(case: Case) -> float:
    """|kernel - equation| / |equation|, norms over all outputs."""
    from ois_network.kernels.launch import masked_attention

    made = make(case)
    got = masked_attention(made.query, made.key, made.value, case.heads, made.bias, case.blocks)
    want = expected(made)
    return float((got.double() - want).norm() / want.norm())


def run_blind() -> tuple[float, bool]:
    """Bits that show nothing to positives: (largest output of theirs, all others are finite)."""
    from ois_network.kernels.launch import masked_attention

    made = make(Case(clicks=(24, 24)))
    visible = made.bias.slots.visible
    assert visible is not None
    visible[:, 0] = 0
    got = masked_attention(made.query, made.key, made.value, 2, made.bias, Blocks(16, 32, 3))
    return float(got[:, :24].abs().max()), bool(got[:, 24:].isfinite().all())


def run_network(order: bool, masks: bool, order_first: bool, dtype: torch.dtype) -> float:
    """A whole click through the kernels and through PyTorch: relative difference of logits."""
    from ois_network.kernels.operations import KernelAttention

    config = SMALL.replace(
        prompt_dim=32,
        fusion_heads=2,  # of 16 channels
        order=order,
        object=masks,
        fusion_order=FusionOrder.ORDER_FIRST if order_first else FusionOrder.OBJECT_FIRST,
    )
    network = random_network(config)
    rewrites = Rewrites(cached_kv=True)
    encoder, decoder = ImageEncoder(network, rewrites), ClickDecoder(network, rewrites)
    if dtype is not torch.float32:
        lower_precision(encoder, decoder, dtype)
    prompts = random_prompts(5, 7, [(6, 2), (1, 0)], previous=[True, False]).arguments()
    asked: list[Call] = []

    def always(call: Call, _device: torch.device) -> Blocks:
        asked.append(call)
        return Blocks(64, 64, 1)

    with torch.no_grad():
        state = encoder(random_image(config, 5, 7), *position_matrices(config, 5, 7))
        want, _ = decoder(state, *prompts)
        set_attention_ops(decoder, KernelAttention(always))
        got, _ = decoder(state, *prompts)
    # Once for the click, then for each of its attentions: the kernels did run.
    assert asked == [Call(2, 48, 32, 35, 2, dtype)] * (1 + 2 * config.fusion_blocks)
    return relative_error(got, want)


def run_benchmark() -> tuple[list[float], list[float]]:
    """The GPU benchmark's click on a CPU, PyTorch's and the kernels' outputs: their errors."""
    from ois_benchmarks.kernel_click import ClickAttention

    call = Call(2, 48, 32, 14 * 15, 2, torch.float16)
    click = ClickAttention.random(call, (14, 15), torch.device("cpu"))
    exact = click.exact()

    def errors(outputs: list[Tensor]) -> list[float]:
        assert len(outputs) == 6
        assert all(bool(output.isfinite().all()) for output in outputs)
        pairs = zip(outputs[:2], exact, strict=True)
        return [float((got.double() - want).norm() / want.norm()) for got, want in pairs]

    return errors(click.by_torch()), errors(click.by_kernels(Blocks(64, 64, 2)))
