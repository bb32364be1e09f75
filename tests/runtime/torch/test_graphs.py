"""Replayed graphs give the same results as calls without graphs.

`HostDevice` is a fake GPU: a replay runs the captured calls again and writes into the memory of
the first run, as a CUDA graph does. The network is real.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ois_client.contract.errors import ServerOverloaded
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import pack_mask
from ois_network.attention import set_attention_ops
from ois_network.half import lower_precision
from ois_network.kernels.choice import Blocks
from ois_network.kernels.operations import KernelAttention
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites
from ois_runtime.engines.pixels import postprocess, resize
from ois_runtime.torch import masks as torch_masks
from ois_runtime.torch.cuda import Captured, Lane
from ois_runtime.torch.device import is_out_of_memory
from ois_runtime.torch.graph_pool import CAPTURE_AT, GraphKey
from ois_runtime.torch.graphs import GraphRunner
from ois_runtime.torch.image_state import TorchState
from ois_runtime.torch.runner import Answer, EagerRunner, Wanted
from support.network_scenes import MICRO, random_network
from support.torch_graphs import TALL, WIDE, HostDevice, image, prompts, size_of

ALL = Wanted(masks=True, logits=True)


@pytest.fixture(scope="module")
def halves() -> tuple[ImageEncoder, ClickDecoder]:
    network = random_network(MICRO, seed=1).requires_grad_(False)
    return ImageEncoder(network), ClickDecoder(network)


class Both:
    """The same calls with and without graphs. capture_at: 1 captures at the first use."""

    def __init__(
        self, halves: tuple[ImageEncoder, ClickDecoder], graphs: int = 8, capture_at: int = 1
    ) -> None:
        self.device = HostDevice()
        self.graphs = GraphRunner(*halves, self.device, cuda_graphs=graphs, capture_at=capture_at)
        self.plain = EagerRunner(*halves)

    def encode(self, geometry: Geometry, seed: int) -> tuple[TorchState, TorchState]:
        given = image(geometry, seed)
        return (
            TorchState.of(self.graphs.encode(given, size_of(geometry)), geometry),
            TorchState.of(self.plain.encode(given, size_of(geometry)), geometry),
        )

    def check(self, states: tuple[TorchState, TorchState], count: int, seed: int = 0) -> Answer:
        given = prompts(states[0].geometry, count, seed)
        got = self.graphs.decode(states[0], given, ALL)
        want = self.plain.decode(states[1], given, ALL)
        assert got.logits is not None
        assert want.logits is not None
        assert got.packed is not None
        scale = np.abs(want.logits).max()
        np.testing.assert_allclose(got.logits, want.logits, atol=1e-5 * scale)
        assert np.abs(got.coverage.astype(int) - want.coverage).max() <= 2
        masks = postprocess(got.logits, states[0].geometry)
        assert [row.tobytes() for row in got.packed] == [pack_mask(mask) for mask in masks]
        return got


def test_images_shapes_and_object_counts_can_alternate(
    halves: tuple[ImageEncoder, ClickDecoder],
) -> None:
    both = Both(halves)
    first, second, tall = both.encode(WIDE, 1), both.encode(WIDE, 2), both.encode(TALL, 3)
    for number, (states, count) in enumerate(
        [(first, 1), (second, 3), (tall, 1), (first, 1), (first, 4), (second, 1), (tall, 2)]
    ):
        both.check(states, count, seed=number)
    clicks = both.graphs.kept.clicks
    assert (clicks.captures, clicks.replays) == (4, 3)
    assert GraphKey((5, 8), 4) in clicks
    assert (both.graphs.kept.encodes.captures, both.graphs.kept.encodes.replays) == (2, 1)


def test_an_image_of_another_size_is_resized_on_the_device_as_by_pillow(
    halves: tuple[ImageEncoder, ClickDecoder],
) -> None:
    """Outside of the graph, which is for one patch grid: pictures of one grid have many sizes."""
    both = Both(halves)
    rng = np.random.default_rng(1)
    for number, (width, height) in enumerate([(300, 190), (150, 95), (301, 189)]):
        geometry = Geometry.fit(width, height, longest=MICRO.longest)
        assert size_of(geometry) == size_of(WIDE)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        small = {**image(geometry, 1), "image": resize(pixels, geometry)}
        large = small | {"image": pixels}
        want = both.plain.encode(small, size_of(geometry))
        for runner in (both.plain, both.graphs):
            got = runner.encode(large, size_of(geometry))
            for name, tensor in want.items():
                torch.testing.assert_close(got[name], tensor, atol=0, rtol=0)
        assert both.graphs.kept.encodes.replays == number


def test_a_click_of_many_objects_leaves_nothing_to_the_next(
    halves: tuple[ImageEncoder, ClickDecoder],
) -> None:
    both = Both(halves)
    states = both.encode(WIDE, 1)
    alone = both.check(states, 3, seed=5)
    both.check(states, 4, seed=6)
    again = both.check(states, 3, seed=5)
    assert alone.logits is not None
    assert again.logits is not None
    np.testing.assert_array_equal(alone.logits, again.logits)


def test_more_objects_than_the_largest_bucket_run_in_parts(
    halves: tuple[ImageEncoder, ClickDecoder],
) -> None:
    both = Both(halves)
    answer = both.check(both.encode(TALL, 1), 67)
    assert answer.coverage.shape == (67, 8, 5)
    assert GraphKey((8, 5), 64) in both.graphs.kept.clicks
    assert GraphKey((8, 5), 4) in both.graphs.kept.clicks


def test_graphs_are_bounded_and_a_grids_buffers_go_with_its_last(
    halves: tuple[ImageEncoder, ClickDecoder],
) -> None:
    both = Both(halves, graphs=2)
    wide, tall = both.encode(WIDE, 1), both.encode(TALL, 2)
    for states, count in [(wide, 1), (wide, 2), (tall, 1), (tall, 2)]:
        both.check(states, count)
    kept = both.graphs.kept
    assert len(kept.clicks) == 2
    assert set(kept.states) == {(8, 5)}
    both.check(wide, 1)  # its graph was evicted: runs once without
    assert kept.clicks.evictions == 2
    both.check(wide, 1)
    assert kept.clicks.evictions == 3


def test_without_graphs_nothing_is_kept(halves: tuple[ImageEncoder, ClickDecoder]) -> None:
    both = Both(halves, graphs=0)
    both.check(both.encode(WIDE, 1), 3)
    assert len(both.graphs.kept.clicks) == len(both.graphs.kept.encodes) == 0
    assert not both.graphs.kept.states


def test_only_what_is_wanted_leaves_the_device(halves: tuple[ImageEncoder, ClickDecoder]) -> None:
    runner = GraphRunner(*halves, HostDevice(), cuda_graphs=4, capture_at=1)
    state = TorchState.of(runner.encode(image(WIDE, 1), size_of(WIDE)), WIDE)
    masks = runner.decode(state, prompts(WIDE, 2), Wanted(masks=True))
    assert (masks.logits, masks.packed is None) == (None, False)
    logits = runner.decode(state, prompts(WIDE, 2), Wanted(logits=True))
    assert (logits.packed, logits.logits is None) == (None, False)


def test_many_threads_get_their_own_answers(halves: tuple[ImageEncoder, ClickDecoder]) -> None:
    both = Both(halves)
    states = [both.encode(WIDE, 1), both.encode(TALL, 2), both.encode(WIDE, 3)]
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(both.check, states[n % 3], 1 + n % 4, n) for n in range(18)]
        assert len([job.result() for job in jobs]) == 18


def test_a_shape_is_captured_when_it_is_seen_again(
    halves: tuple[ImageEncoder, ClickDecoder],
) -> None:
    both = Both(halves, capture_at=CAPTURE_AT)
    first = both.encode(WIDE, 1)
    both.check(first, 1)
    kept = both.graphs.kept
    assert kept.clicks.captures == kept.encodes.captures == len(kept.states) == 0
    both.check(first, 1)
    assert kept.clicks.captures == 1
    second = both.encode(WIDE, 2)
    assert kept.encodes.captures == 1
    for number, (states, count) in enumerate([(second, 1), (first, 2), (first, 1), (second, 2)]):
        both.check(states, count, seed=number)
    assert (kept.clicks.captures, kept.encodes.captures) == (2, 1)
    assert (kept.clicks.replays, kept.encodes.replays) == (2, 0)


def test_pictures_that_all_differ_in_shape_are_never_captured(
    halves: tuple[ImageEncoder, ClickDecoder],
) -> None:
    both = Both(halves, graphs=2, capture_at=CAPTURE_AT)
    for height in range(20, 113, 14):
        both.check(both.encode(Geometry.fit(112, height, longest=MICRO.longest), height), 1)
    assert both.device.captures == 0
    assert not both.graphs.kept.states


#: Errors of PyTorch, CUDA, cuBLAS and cuDNN for "out of memory".
FULL = {
    "allocator": (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cuda": (torch.AcceleratorError, "CUDA error: out of memory"),
    "cublas": (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    "cudnn": (RuntimeError, "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
}


@pytest.mark.parametrize("by", FULL)
def test_on_a_full_gpu_the_graphs_are_dropped_and_the_call_repeated(
    halves: tuple[ImageEncoder, ClickDecoder], by: str
) -> None:
    both = Both(halves)
    both.device.says, both.device.text = FULL[by]
    states = both.encode(WIDE, 1)
    both.device.failures = 1
    both.check(states, 1)
    assert both.device.released == 1
    assert len(both.graphs.kept.clicks) == 0  # a capture that did not fit is not retried at once
    both.device.failures = 2
    with pytest.raises(ServerOverloaded, match=r"5 of 1024 MiB free; "):
        both.check(states, 2)
    both.check(states, 2)


def test_an_upload_that_does_not_fit_waits_until_the_graphs_are_dropped(
    halves: tuple[ImageEncoder, ClickDecoder],
) -> None:
    both = Both(halves)
    both.check(both.encode(WIDE, 1), 1)
    both.device.failures = 2  # in parallel with another call, and after it
    states = both.encode(WIDE, 2)
    assert both.device.released == 1
    assert len(both.graphs.kept.clicks) == 0
    both.check(states, 1)
    both.device.failures = 3
    with pytest.raises(ServerOverloaded, match="keep fewer images"):
        both.encode(WIDE, 3)


def test_memory_is_released_after_the_tensors_that_held_it_are_gone(
    halves: tuple[ImageEncoder, ClickDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an error is handled, its traceback holds the tensors of the failed run."""
    both = Both(halves)
    states = both.encode(WIDE, 1)
    device = both.device
    held: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def fails(run: Callable[[], tuple[Tensor, Tensor]], _lane: Lane) -> Captured[Any]:
        outputs = run()
        held.append(weakref.ref(outputs[0]))
        raise torch.OutOfMemoryError("full")

    def release_memory() -> None:
        alive.append(held[0]() is not None)

    monkeypatch.setattr(device, "capture", fails)
    monkeypatch.setattr(device, "release_memory", release_memory)
    both.check(states, 1)
    assert alive == [False]


def test_another_error_is_not_taken_for_a_full_memory(
    halves: tuple[ImageEncoder, ClickDecoder],
) -> None:
    both = Both(halves)
    states = both.encode(WIDE, 1)
    both.check(states, 1)
    both.device.failures, both.device.says, both.device.text = 1, RuntimeError, "illegal address"
    with pytest.raises(RuntimeError, match="illegal address"):
        both.check(states, 1)
    assert both.device.released == 0


NOT_CAPTURED = "operation not permitted when stream is capturing"


def test_a_capture_that_fails_becomes_a_plain_run_and_is_reported(
    halves: tuple[ImageEncoder, ClickDecoder], caplog: pytest.LogCaptureFixture
) -> None:
    both = Both(halves, capture_at=CAPTURE_AT)
    both.device.capture_fails = NOT_CAPTURED
    states = [both.encode(WIDE, seed) for seed in range(4)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    said = caplog.records[0].getMessage()
    assert said.startswith("capturing a CUDA graph for a grid of 5x8 and 0 objects failed")
    assert f"({NOT_CAPTURED}); this shape runs without a graph" in said
    both.device.capture_fails = ""
    for number in range(4):  # clicks are captured, encodes of this shape never again
        both.check(states[number], 1, seed=number)
    kept = both.graphs.kept
    assert (kept.encodes.captures, kept.clicks.captures, both.graphs.failures) == (0, 1, 1)
    assert len(caplog.records) == 1


def test_after_three_failures_nothing_is_captured_any_more(
    halves: tuple[ImageEncoder, ClickDecoder], caplog: pytest.LogCaptureFixture
) -> None:
    both = Both(halves)
    both.device.capture_fails = NOT_CAPTURED
    states = both.encode(WIDE, 1)
    for count in (1, 2, 4, 8):
        both.check(states, count)
    assert both.graphs.failures == len(caplog.records) == 3
    assert "No more graphs are captured" in caplog.records[-1].getMessage()
    both.device.capture_fails = ""
    both.check(both.encode(TALL, 1), 1)
    assert both.device.captures == 0


def test_masks_are_packed_by_a_graph_of_their_size(
    halves: tuple[ImageEncoder, ClickDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images with one patch grid share the graph of a click, and have one each for masks."""
    both = Both(halves)
    larger = Geometry.fit(600, 380, longest=MICRO.longest)
    first = both.encode(WIDE, 1)
    second = both.encode(larger, 1)
    for number, states in enumerate([first, second, first, second]):
        both.check(states, 2, seed=number)
    clicks = both.graphs.kept.clicks
    assert (clicks.captures, clicks.replays) == (1, 3)
    graph = clicks.find(GraphKey((5, 8), 2))
    assert graph is not None
    assert (graph.masks.captures, graph.masks.replays) == (2, 2)
    assert GraphKey((380, 600), 2) in graph.masks
    # A graph reads the taps at every replay, so they must not be freed when the cache drops them.
    torch_masks._taps.cache_clear()
    monkeypatch.setattr(torch_masks, "_taps", None)
    both.check(first, 2, seed=9)


def test_a_click_on_more_objects_than_a_tensor_can_hold_runs_in_parts(
    halves: tuple[ImageEncoder, ClickDecoder],
) -> None:
    asked: list[tuple[int, int]] = []
    rows: list[int] = []
    encoder, decoder = halves

    def most(grid: tuple[int, int]) -> int:
        asked.append(grid)
        return 5

    def decode(state: Any, points: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        rows.append(len(points))
        return decoder(state, points, *others)

    both = Both(halves)
    both.graphs = GraphRunner(
        encoder, decode, both.device, cuda_graphs=8, capture_at=1, most_objects=most
    )
    states = both.encode(WIDE, 1)
    both.check(states, 11)
    assert asked == [(5, 8)]
    assert max(rows) == 4
    assert both.graphs.largest_bucket((5, 8)) == 4


def test_clicks_and_encodes_use_their_own_lanes(halves: tuple[ImageEncoder, ClickDecoder]) -> None:
    both = Both(halves)
    states = both.encode(WIDE, 1)
    both.check(states, 1)
    both.check(states, 1)
    assert both.device.lanes == [Lane.ENCODES, Lane.CLICKS, Lane.CLICKS]
    assert Lane.CLICKS < Lane.ENCODES


def test_a_capture_that_ran_out_of_memory_raises_two_errors() -> None:
    """PyTorch then ends the capture, which fails too. The first error is the reason."""
    with pytest.raises(RuntimeError) as caught:
        _failed_capture()
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("operation failed due to an error during capture"))


def _failed_capture() -> None:
    try:
        raise torch.OutOfMemoryError("CUDA out of memory")
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


class Launches:
    """Replaces a Triton kernel: counts `kernel[grid](...)` and checks the arguments."""

    def __init__(self) -> None:
        self.count = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Tensor | float, **_constants: object) -> None:
            assert all(isinstance(size, int) for size in grid)
            devices = {one.device.type for one in arguments if isinstance(one, Tensor)}
            assert devices == {"meta"}
            self.count += 1

        return launch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", ["PyTorch's attention", "the kernels"])
def test_nothing_in_the_network_stops_a_capture(
    monkeypatch: pytest.MonkeyPatch, way: str, dtype: torch.dtype
) -> None:
    """No tensor is made from Python numbers and no value is read: both would wait for the device.

    On the device `meta` tensors have no values, so reading one is an error, and so is using a
    tensor that stayed on the CPU. Everything of the kernels runs except the launch.
    """
    kernels = way == "the kernels"
    config = MICRO.replace(fusion_heads=2)  # 16 channels, the fewest that the kernels accept
    network = random_network(config, seed=1).requires_grad_(False)
    attention, shares = Launches(), Launches()
    if kernels:
        language = pytest.importorskip("ois_network.kernels.language", exc_type=ImportError)
        monkeypatch.setattr(language, "masked_attention", attention)
        monkeypatch.setattr(language, "add_shares", shares)
        set_attention_ops(network, KernelAttention(lambda _call, _device: Blocks(64, 64, 3)))
    rewrites = Rewrites(cached_kv=kernels)
    encoder, decoder = ImageEncoder(network, rewrites), ClickDecoder(network, rewrites)
    if dtype is not torch.float32:
        lower_precision(encoder, decoder, dtype)
    encoder.to("meta")
    decoder.to("meta")
    called: set[str] = set()

    class Names(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            called.add(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    given = [torch.tensor(array).to("meta") for array in image(WIDE, 1).values()]
    clicks = prompts(WIDE, 3).map(lambda array: torch.tensor(array).to("meta"))
    with torch.inference_mode(), Names():
        state = encoder(*given)
        logits, coverage = decoder(state, *clicks)
    assert logits.dtype is torch.float32
    assert (tuple(logits.shape), tuple(coverage.shape)) == ((3, 70, 112), (3, 5, 8))
    assert {"conv2d", "scaled_dot_product_attention"} <= called
    assert not called & {"tensor", "as_tensor", "item", "tolist", "cpu", "numpy", "nonzero"}
    # Both attentions of each block, or none of them.
    assert attention.count == shares.count == (2 * config.fusion_blocks if kernels else 0)
    assert ("keys_values" in state) is kernels
