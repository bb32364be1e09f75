"""Attention on random numbers by the kernels and by the equations.

`tests/network/kernels/test_parity.py` runs these cases in the interpreter on a CPU,
`tests/gpu/test_kernels.py` on a GPU. Only the functions that run kernels import Triton, because the
interpreter must be chosen in the environment before the import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from ois_network.attention import set_attention_ops
from ois_network.config import FusionOrder
from ois_network.half import lower_precision
from ois_network.kernels.choice import Blocks, Measurement
from ois_network.kernels.reference import masked_attention as equation
from ois_network.kernels.slots import Call, Rows, SlotBias, Slots, Touched, visible_bits
from ois_network.order import blocked_keys, order_maps
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites, add_at
from support.network_scenes import (
    SMALL,
    position_matrices,
    random_image,
    random_network,
    random_prompts,
    relative_error,
)

torch.set_num_threads(1)

T = TypeVar("T")

BLOCKS = Blocks(64, 32, 2)


@dataclass(frozen=True)
class Case:
    """An attention with 24 positive and 24 negative slots, of which some are empty.

    sigma: None for no order bias, or one number, or one per head. covered: share of the patches
    that the previous mask covers completely, the others are empty; None for no object mask.
    touched: entries of disks per object; one of them is unused, and one names a patch again.
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


def _any_number_of_keys() -> Iterator[tuple[str, Case]]:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for keys in (1, 7, 16, 33):
            case = Case(objects=1, heads=1, keys=keys, dtype=dtype, touched=6)
            yield f"{keys}-keys-{str(dtype).removeprefix('torch.')}", case


def _as_many_keys_as_the_paper_has() -> Iterator[tuple[str, Case]]:
    case = Case(objects=1, heads=1, keys=5329, dim=32, touched=12, blocks=Blocks(64, 128, 3))
    yield "5329-keys", replace(case, dtype=torch.float16)


def _every_strength_of_order_with_and_without_masks() -> Iterator[tuple[str, Case]]:
    for sigma in (None, 0.0, 8.0, 64.0, (0.0, 64.0)):
        for covered in (None, 0.3):
            case = Case(objects=1, keys=40, sigma=sigma, covered=covered)
            yield f"sigma-{sigma}-covered-{covered}", case


def _a_mask_of_nothing_and_a_mask_of_everything() -> Iterator[tuple[str, Case]]:
    # One sign would be blocked everywhere, so its slots attend to everything.
    for covered in (0.0, 1.0):
        case = Case(objects=1, heads=1, covered=covered, clicks=(24, 24), touched=5)
        yield f"all-covered-{covered}", case


def _one_image_for_all_objects_or_one_each() -> Iterator[tuple[str, Case]]:
    for objects in (1, 3):
        for shared in (True, False):
            for touched in (0, 40):
                case = Case(objects=objects, heads=1, keys=50, shared=shared, touched=touched)
                yield f"{objects}-objects-shared-{shared}-touched-{touched}", case


def _every_way_to_divide_the_work() -> Iterator[tuple[str, Case]]:
    # With 24 positives and few covered patches, no slot of some tiles attends to a whole key tile.
    case = Case(objects=1, heads=1, clicks=(24, 24), covered=0.02, keys=130)
    ways = (16, 1, True), (16, 3, False), (32, 7, True), (64, 1, False), (64, 7, True)
    for queries, splits, skip in ways:
        blocks = Blocks(queries, 32, splits, skip)
        yield f"{queries}-queries-{splits}-splits-skip-{skip}", replace(case, blocks=blocks)


CASES = {
    name: case
    for some in (
        _any_number_of_keys,
        _as_many_keys_as_the_paper_has,
        _every_strength_of_order_with_and_without_masks,
        _a_mask_of_nothing_and_a_mask_of_everything,
        _one_image_for_all_objects_or_one_each,
        _every_way_to_divide_the_work,
    )
    for name, case in some()
}

RANDOM_CASES = st.builds(
    Case,
    objects=st.integers(1, 2),
    keys=st.integers(1, 70),
    heads=st.sampled_from([1, 2]),
    dim=st.sampled_from([16, 32]),
    sigma=st.none() | st.floats(0, 64, width=32),
    covered=st.none() | st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    clicks=st.tuples(st.integers(0, 24), st.integers(0, 24)),
    touched=st.sampled_from([0, 3, 17]),
    shared=st.booleans(),
    seed=st.integers(0, 1000),
    blocks=st.builds(
        Blocks,
        queries=st.sampled_from([16, 64]),
        keys=st.sampled_from([32, 64]),
        splits=st.integers(1, 4),
        skip=st.booleans(),
    ),
)

#: Whole clicks: (with order, with masks, order first, precision).
NETWORKS = (
    (True, True, True, torch.float32),
    (False, True, False, torch.float32),
    (True, False, False, torch.float32),
    (True, True, True, torch.float16),
)


@dataclass(frozen=True)
class Attention:
    """The tensors of a case: Q, K, V, the inputs of M and B, and the previous mask."""

    case: Case
    query: Tensor
    key: Rows
    value: Rows
    bias: SlotBias
    coverage: Tensor
    has_previous: Tensor


def make(case: Case) -> Attention:
    """Random tensors, drawn on the CPU so that every device gets the same numbers."""
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


def on(value: T, device: str) -> T:
    """A copy of a dataclass with all its tensors, at any depth, on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if not is_dataclass(value):
        return value
    inside = {each.name: on(getattr(value, each.name), device) for each in fields(value)}
    return replace(value, **inside)


def unpack_bits(words: Tensor, count: int) -> Tensor:
    """The inverse of `slots.pack_bits`: words (..., W) int32 -> (..., count) bool."""
    flags = (words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32)) & 1
    return flags.flatten(-2)[..., :count].bool()


def as_tensor(rows: Rows, touched: Touched | None) -> Tensor:
    """K or V of every object as one tensor, (N or 1, K, C)."""
    if rows.part is None or touched is None:
        return rows.base
    part = rows.part * touched.fresh.unsqueeze(2)
    return add_at(rows.base.expand(len(part), -1, -1), touched.index.long(), part)


def expected(made: Attention) -> Tensor:
    """The result in float64, by the equations and the network's rules for M and B."""
    slots, case = made.bias.slots, made.case
    order = blocked = None
    sigma = made.bias.sigma
    if slots.depth is not None and slots.centres is not None and sigma is not None:
        order = order_maps(slots.depth.double(), slots.centres.double(), slots.labels)
    if case.covered is not None:
        blocked = blocked_keys(made.coverage, made.has_previous, slots.labels)
    return equation(
        made.query.double(),
        as_tensor(made.key, slots.touched).double(),
        as_tensor(made.value, slots.touched).double(),
        case.heads,
        order=order,
        sigma=0.0 if sigma is None else sigma.double(),
        blocked=blocked,
    )


def run(case: Case, device: str = "cpu") -> float:
    """|kernel - equation| / |equation|, norms over all outputs; the equation runs on the CPU."""
    made = make(case)
    got = _by_kernels(made, case.blocks, device)
    want = expected(made)
    return float((got.double() - want).norm() / want.norm())


def run_blind(device: str = "cpu") -> tuple[float, bool]:
    """A run whose positive slots may attend to no key.

    Returns their largest output, and whether all other outputs are finite.
    """
    made = make(Case(clicks=(24, 24)))
    visible = made.bias.slots.visible
    assert visible is not None
    visible[:, 0] = 0
    got = _by_kernels(made, Blocks(16, 32, 3), device)
    return float(got[:, :24].abs().max()), bool(got[:, 24:].isfinite().all())


def _by_kernels(made: Attention, blocks: Blocks, device: str) -> Tensor:
    from ois_network.kernels.launch import masked_attention

    there = on(made, device)
    heads = made.case.heads
    return masked_attention(there.query, there.key, there.value, heads, there.bias, blocks).cpu()


def run_network(
    order: bool, masks: bool, order_first: bool, dtype: torch.dtype, device: str = "cpu"
) -> float:
    """The relative difference between the logits of a click by the kernels and by PyTorch."""
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
    encoder, decoder = encoder.to(device), decoder.to(device)
    prompts = random_prompts(5, 7, [(6, 2), (1, 0)], previous=[True, False])
    clicks = on(prompts, device)
    given = random_image(config, 5, 7), *position_matrices(config, 5, 7)
    asked: list[Call] = []

    def always(call: Call, _device: torch.device) -> Blocks:
        asked.append(call)
        return Blocks(64, 64, 1)

    with torch.no_grad():
        state = encoder(*(tensor.to(device) for tensor in given))
        want, _ = decoder(state, *clicks)
        set_attention_ops(decoder, KernelAttention(always))
        got, _ = decoder(state, *clicks)
    # Asked once for the click, and then for each of its attentions: the kernels have run.
    assert asked == [Call(2, 48, 32, 35, 2, dtype)] * (1 + 2 * config.fusion_blocks)
    return relative_error(got, want)


def run_benchmark() -> tuple[list[float], list[float]]:
    """The errors of the GPU benchmark's click on a CPU: by PyTorch, and by the kernels."""
    from ois_network.kernels.click_attention import ClickAttention

    call = Call(2, 48, 32, 14 * 15, 2, torch.float16)
    click = ClickAttention.random(call, (14, 15), torch.device("cpu"))
    exact = click.exact()

    def errors(outputs: list[Tensor]) -> list[float]:
        assert len(outputs) == 6
        assert all(bool(output.isfinite().all()) for output in outputs)
        pairs = zip(outputs[:2], exact, strict=True)
        return [float((got.double() - want).norm() / want.norm()) for got, want in pairs]

    return errors(click.by_torch()), errors(click.by_kernels(Blocks(64, 64, 2)))


def measure_here(budget_s: float) -> tuple[list[Measurement], int]:
    """`here.measure` of a small click on a CPU, with invented times. Also how many were taken."""
    from ois_network.kernels import here

    taken: list[float] = []

    def stopwatch(run: Callable[[], object]) -> float:
        run()
        taken.append(100.0 * 0.5 ** len(taken))  # PyTorch first; each time is half of the last
        return taken[-1]

    here.OBJECTS, here._TILES = (1, 2), ((64, 64),)  # the interpreter is slow
    call = Call(1, 48, 16, 5 * 8, 1, torch.float16)
    rows = here.measure(call, (5, 8), torch.device("cpu"), stopwatch, budget_s)
    return rows, len(taken)


def run_dot(dtype: torch.dtype, device: str = "cpu") -> float:
    """The error of the kernel `dot_channels`, for a number of pixels that no program divides."""
    from ois_network.kernels.dot import dot_channels

    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 9, 17, 32, generator=draw).to(dtype)
    weight, bias = torch.randn(1, 32, 1, 1, generator=draw), torch.randn(1, generator=draw)
    want = pixels.double() @ weight.double().view(-1) + bias.double()
    got = dot_channels(pixels.to(device), weight.to(device), bias.to(device)).cpu()
    assert got.dtype is torch.float32
    return relative_error(got, want)
