"""The compact inputs of masks and keys describe the same masks and keys as the tensors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ois_client.contract.errors import InvalidInput
from ois_network.attention import EquationAttention, TorchAttention, set_attention_ops
from ois_network.kernels.choice import (
    Blocks,
    choose,
    forget_measurements,
    read_measurements,
    write_measurements,
)
from ois_network.kernels.operations import KernelAttention
from ois_network.kernels.reference import masked_attention
from ois_network.kernels.slots import (
    Call,
    Rows,
    Touched,
    pack_bits,
    visible_bits,
)
from ois_network.order import blocked_keys, order_maps
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites, add_at
from support.kernels.cases import Attention, Case, as_tensor, expected, make, unpack_bits
from support.kernels.measured import measurement
from support.network_scenes import (
    SMALL,
    position_matrices,
    random_image,
    random_network,
    random_prompts,
)


@given(flags=st.lists(st.booleans(), min_size=1, max_size=100))
def test_packed_bits_come_back(flags: list[bool]) -> None:
    row = torch.tensor([flags])
    words = pack_bits(row)
    assert words.dtype is torch.int32
    assert words.shape == (1, -(-len(flags) // 32))
    for place, flag in enumerate(flags):
        assert bool(int(words[0, place // 32]) >> (place % 32) & 1) == flag
    assert torch.equal(unpack_bits(words, len(flags)), row)


def test_masks_from_bits_are_those_of_the_network() -> None:
    prompts = random_prompts(5, 7, [(6, 2), (1, 0), (0, 3)], previous=[True, True, False])
    prompts.coverage[1] = 255  # no background: without the rule, negatives could attend to nothing
    visible = unpack_bits(visible_bits(prompts.coverage, prompts.has_previous), 35)  # (3, 2, 35)
    labels = prompts.labels.unsqueeze(2)
    blocked = (labels == 1) & ~visible[:, :1] | (labels == 0) & ~visible[:, 1:]
    assert torch.equal(
        blocked, blocked_keys(prompts.coverage, prompts.has_previous, prompts.labels)
    )
    assert blocked[0].any()
    assert not blocked[1, :24].any()  # all is foreground
    assert not blocked[2].any()


def test_keys_with_their_disks_are_those_of_the_network() -> None:
    network = random_network()
    assert network.dense is not None
    prompts = random_prompts(5, 7, [(7, 4), (1, 0)], previous=[False, False])
    index, embedding = network.dense.local(prompts.points, prompts.labels, 5, 7)
    touched = Touched.of(index, embedding, 35)
    base = torch.randn(1, 35, SMALL.prompt_dim, generator=torch.Generator().manual_seed(0))
    dense = add_at(base.expand(2, -1, -1), index, embedding)
    changed = (dense != base).any(2)
    assert torch.equal(unpack_bits(touched.bits, 35), changed)
    for item in range(2):
        named = touched.index[item][touched.fresh[item]]
        assert len(named) == len(named.unique()) == int(changed[item].sum())


def test_the_reference_is_the_equation_term_by_term() -> None:
    draw = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(2, n, 8, generator=draw, dtype=torch.float64) for n in (3, 5, 5)
    )
    order = torch.rand(2, 3, 5, generator=draw, dtype=torch.float64)
    blocked = torch.rand(2, 3, 5, generator=draw) < 0.4
    blocked[1, 2] = True  # blocked everywhere counts as not blocked
    sigma = torch.tensor([0.5, 3.0])
    got = masked_attention(query, key, value, 2, order=order, sigma=sigma, blocked=blocked)
    for item in range(2):
        for slot in range(3):
            open_keys = [k for k in range(5) if not blocked[item, slot, k]] or list(range(5))
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                weights = torch.stack(
                    [
                        torch.exp(
                            query[item, slot, part] @ key[item, k, part] / 2
                            - sigma[head] * order[item, slot, k]
                        )
                        for k in open_keys
                    ]
                )
                want = (weights[:, None] * value[item, open_keys, part]).sum(0) / weights.sum()
                assert torch.allclose(got[item, slot, part], want, rtol=1e-12, atol=1e-14)


def test_the_reference_agrees_with_the_networks_attention() -> None:
    made = make(Case(objects=2, touched=7))
    slots = made.bias.slots
    assert slots.depth is not None
    assert slots.centres is not None
    order = order_maps(slots.depth, slots.centres, slots.labels)
    blocked = blocked_keys(made.coverage, made.has_previous, slots.labels)
    bias = torch.where(blocked, -1e4, 0.0) - 4.0 * order
    tensors = made.query, as_tensor(made.key, slots.touched), as_tensor(made.value, slots.touched)
    for ops in (TorchAttention(), EquationAttention()):
        got = ops.attend(*tensors, 2, bias.unsqueeze(1))
        assert torch.allclose(got.double(), expected(made), rtol=1e-4, atol=1e-6)


CALL = Call(1, 48, 256, 5329, 8, torch.float16)
BLOCKS = Blocks(64, 64, 33)


@pytest.mark.parametrize(
    ("objects", "splits"),
    [(1, 1), (2, 4), (4, 4), (5, None), (8, None), (12, None), (16, 16), (32, None)],
)
def test_kernels_run_between_sizes_where_both_were_faster(objects: int, splits: int | None) -> None:
    rows = [measurement(n, ratio) for n, ratio in ((16, 0.6), (1, 0.5), (8, 0.97), (4, 0.9))]
    call = Call(objects, 48, 256, 5329, 8, torch.float16)
    chosen = choose(rows, call)
    assert (None if chosen is None else chosen.splits) == splits


@pytest.mark.parametrize(
    "other",
    [{"dtype": torch.bfloat16}, {"heads": 4}, {"channels": 128}, {"queries": 16}, {"keys": 1000}],
)
def test_a_measurement_applies_only_to_its_own_network(other: dict[str, object]) -> None:
    assert choose([measurement(1, 0.5, **other)], CALL) is None
    assert choose([measurement(1, 0.5, **other), measurement(1, 0.5)], CALL) == Blocks(64, 64, 1)


def test_the_nearest_number_of_keys_decides() -> None:
    rows = [measurement(1, 0.5, keys=2993), measurement(1, 1.2, keys=5329)]
    assert choose(rows, CALL) is None
    assert choose(rows, Call(1, 48, 256, 3000, 8, torch.float16)) == Blocks(64, 64, 1)


def test_measurements_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    path.write_text('{"schema": 1, "devices": {}}')
    rows = [measurement(1, 0.5), measurement(4, 1.5, dtype=torch.bfloat16)]
    write_measurements("9.0", {"gpu": "H100"}, rows, path)
    write_measurements("8.0", {"gpu": "A100"}, rows[:1], path)
    write_measurements("8.0", {"gpu": "A100"}, rows[1:], path)  # another dtype: both stay
    assert read_measurements(path) == {"9.0": rows, "8.0": rows}
    again = [measurement(1, 0.7)]
    write_measurements("8.0", {"gpu": "A100"}, again, path)
    assert read_measurements(path)["8.0"] == [rows[1], *again]
    write_measurements("9.0", {"gpu": "H200"}, again, path)
    assert read_measurements(path)["9.0"] == again
    forget_measurements("8.0", torch.bfloat16, path)
    forget_measurements("7.0", torch.bfloat16, path)
    assert read_measurements(path) == {"9.0": again, "8.0": again}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 2}', '{"schema": 1, "devices": {"9.0": 3}}']
)
def test_a_damaged_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "measured.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="not a table of kernel measurements"):
        read_measurements(path)


def test_a_table_with_the_former_spelling_of_dtypes_is_read(tmp_path: Path) -> None:
    rows = [measurement(1, 0.5), measurement(1, 0.5, dtype=torch.bfloat16)]
    former = [row.to_dict() | {"dtype": str(row.call.dtype).removeprefix("torch.")} for row in rows]
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"schema": 1, "devices": {"9.0": {"rows": former}}}))
    assert read_measurements(path) == {"9.0": rows}
    assert [row.to_dict()["dtype"] for row in rows] == ["fp16", "bf16"]


def test_the_committed_table_is_valid_and_leaves_a_cpu_to_pytorch() -> None:
    assert isinstance(read_measurements(), dict)
    ops = KernelAttention()
    assert not ops.takes(CALL, torch.device("cpu"))
    network = random_network()
    set_attention_ops(network, ops)
    assert network.fusion is not None
    assert not network.fusion.takes_slots(torch.zeros(1, 48, 32), 35)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queries": 24}, "24 queries"),
        ({"keys": 16}, "16 keys"),
        ({"splits": 0}, "0 splits"),
    ],
)
def test_impossible_blocks_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Blocks(**({"queries": 64, "keys": 64, "splits": 1} | fields))


def spoilt(what: str) -> Attention:
    """An attention that the kernels could run, except for one error."""
    made = make(Case(touched=4))
    slots, bias = made.bias.slots, made.bias
    assert slots.visible is not None
    changes: dict[str, dict[str, object]] = {
        "float64": {"query": made.query.double()},
        "transposed": {"query": made.query.transpose(0, 1).contiguous().transpose(0, 1)},
        "keys of three objects": {"key": Rows(made.key.base.expand(3, -1, -1).contiguous())},
        "half a part": {"value": Rows(made.value.base)},
        "int64 labels": {"bias": replace(bias, slots=replace(slots, labels=slots.labels.long()))},
        "sigma alone": {"bias": replace(bias, slots=replace(slots, depth=None))},
        "three sigmas": {"bias": replace(bias, sigma=torch.ones(3))},
        "short bits": {
            "bias": replace(bias, slots=replace(slots, visible=slots.visible[..., :1].contiguous()))
        },
        "no patches": {"bias": replace(bias, slots=replace(slots, touched=None))},
    }
    return replace(made, **changes[what])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("float64", "queries in torch.float64; expected fp16, bf16 or fp32"),
        ("transposed", r"query on cpu with strides .*; expected it contiguous"),
        ("keys of three objects", "keys of 3 and values of 1 objects"),
        ("half a part", "a part of only one of K and V"),
        ("int64 labels", r"labels \(2, 48\) torch.int64"),
        ("sigma alone", "sigma without depth and centres"),
        ("three sigmas", r"sigma \(3,\)"),
        ("short bits", r"visible \(2, 2, 1\)"),
        ("no patches", "without the patches"),
    ],
)
def test_what_the_kernels_cannot_take_is_refused_before_they_run(what: str, message: str) -> None:
    launch = pytest.importorskip("ois_network.kernels.launch", exc_type=ImportError)
    made = spoilt(what)
    with pytest.raises(ValueError, match=message):
        launch.masked_attention(made.query, made.key, made.value, 2, made.bias)


def test_heads_that_are_no_power_of_two_are_refused() -> None:
    launch = pytest.importorskip("ois_network.kernels.launch", exc_type=ImportError)
    made = make(Case(heads=1, dim=24))
    with pytest.raises(ValueError, match="24 channels in 1 heads"):
        launch.masked_attention(made.query, made.key, made.value, 1, made.bias)


def test_default_blocks_fill_a_gpu_with_one_object_and_do_not_cut_many() -> None:
    launch = pytest.importorskip("ois_network.kernels.launch", exc_type=ImportError)
    one = launch.default_blocks(1, 8, 48, 5329, multiprocessors=132)
    assert (one.queries, one.keys) == (64, 64)
    assert one.splits * 8 == 2 * 132
    own = launch.default_blocks(1, 8, 48, 5329, multiprocessors=132, own_share=True)
    assert (own.splits + 1) * 8 == 2 * 132  # no second wave for the share of the disks
    assert launch.default_blocks(64, 8, 48, 5329, multiprocessors=132).splits == 1
    assert launch.default_blocks(1, 8, 48, 7, multiprocessors=132).splits == 1
    assert launch.default_blocks(1, 8, 5, 64, multiprocessors=132).queries == 16


class _Greedy(KernelAttention):
    """Takes every call, and counts them; computes with PyTorch."""

    def __init__(self) -> None:
        super().__init__(lambda _call, _device: Blocks(16, 32, 1))
        self.asked = 0

    def attend_slots(self, query: torch.Tensor, *_rest: object) -> torch.Tensor:
        self.asked += 1
        return query


@pytest.mark.parametrize("masked", [False, True])
def test_the_kernels_are_not_asked_to_mask_empty_slots(masked: bool) -> None:
    """The compact form leaves empty slots free, so the decoder makes the masks itself."""
    config = SMALL.replace(mask_empty_slots=masked)
    network = random_network(config)
    rows, columns = 4, 5
    image = (random_image(config, rows, columns), *position_matrices(config, rows, columns))
    prompts = random_prompts(rows, columns, [(2, 1)], previous=[True])
    expected = network.click(network.encode(image[0].unsqueeze(0), *image[1:]), prompts)
    rewrites = Rewrites(cached_kv=True)
    state = ImageEncoder(network, rewrites)(*image)
    ops = _Greedy()
    set_attention_ops(network, ops)
    got, _ = ClickDecoder(network, rewrites)(state, *prompts)
    assert (ops.asked == 0) is masked
    if masked:
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
