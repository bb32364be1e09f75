"""The torch engine on a GPU computes what the network computes: CUDA graphs, streams, memory.

Skipped on a machine without a GPU, because `CudaDevice` cannot be tested without one.
`tests/runtime/torch/test_graphs.py` tests the same runner on a fake device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from ois_client.contract.errors import ServerOverloaded
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import pack_mask
from ois_client.sessions.client import Client
from ois_export.parity.cases import LANDSCAPE
from ois_export.parity.comparison import Reference
from ois_export.parity.network_gate import CASES, Limits, compare, make_prompts
from ois_network.attention import set_attention_ops
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_network.half import lower_precision
from ois_network.kernels.choice import Blocks, Measurement, choose
from ois_network.kernels.operations import KernelAttention
from ois_network.kernels.slots import Call
from ois_network.network import OISNetwork
from ois_network.order import coverage_of_logits
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.engines.local import open_transport
from ois_runtime.engines.pair import DecodedMasks
from ois_runtime.engines.pixels import postprocess, preprocess
from ois_runtime.torch import masks as torch_masks
from ois_runtime.torch.engine import TorchEngines, open_engines
from ois_runtime.torch.graph_pool import CAPTURE_AT, GraphKey, prompt_layout
from ois_runtime.torch.graphs import GraphRunner
from ois_runtime.torch.image_state import TorchState
from ois_runtime.torch.masks import pack_masks
from ois_runtime.torch.resize import resize
from ois_runtime.torch.runner import Wanted
from support.network_scenes import MICRO, objects, random_network
from support.torch_graphs import TALL, WIDE, image, prompts, size_of

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs an NVIDIA GPU that PyTorch can use"
)

TINY = Path(__file__).resolve().parents[2] / "models" / "ois-tiny.safetensors"
SQUARE = Geometry.fit(64, 64, longest=MICRO.longest)
FLAT = Geometry.fit(112, 30, longest=MICRO.longest)

#: Limits for the worst object: trained ois-tiny against the unrewritten network. fp32: GPUs use
#: other algorithms for convolutions than CPUs. fp16 and bf16: about twice the differences that the
#: same code has on a CPU over all cases (fp16 depth 0.007, IoU 0.994; bf16 depth 0.17, IoU 0.935).
LIMITS = {
    "fp32": Limits(depth_error=1e-3, logit_error=1e-3, mask_iou=0.999, row_difference=1e-4),
    "fp16": Limits(0.02, 0.02, 0.985, 0.05, 5e-3),
    "bf16": Limits(0.3, 0.15, 0.88, 0.25, 5e-2),
}


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small random network."""
    file = tmp_path_factory.mktemp("micro") / "micro.safetensors"
    save_checkpoint(random_network(MICRO, seed=1), file, trained=False)
    return file


def on_gpu(file: Path, graphs: int = 32, precision: str = "fp32") -> TorchEngines:
    return open_engines(file, EngineOptions(device="cuda", precision=precision, cuda_graphs=graphs))


def runner_of(engines: TorchEngines) -> GraphRunner:
    runner = engines.runner
    assert isinstance(runner, GraphRunner)
    return runner


# -- parity with the network -----------------------------------------------------------------


@lru_cache(maxsize=1)
def network() -> OISNetwork:
    return load_checkpoint(TINY).network


@lru_cache(maxsize=len(CASES))
def reference(number: int) -> Reference:
    """The reference for CASES[number]: the unrewritten network on the CPU, for every precision."""
    case, config = CASES[number], network().config
    pixels, geometry = preprocess(case.sample.pixels(), config.fit)
    given = make_prompts(case, geometry, number).map(torch.from_numpy)
    with torch.no_grad(), all_cores():
        matrices = map(torch.from_numpy, geometry.position_matrices(config.position_table))
        features = network().encode(torch.from_numpy(pixels.copy()).unsqueeze(0), *matrices)
        logits = torch.cat(
            [network().click(features, objects(given, row)) for row in range(len(given.labels))]
        )
        coverage = coverage_of_logits(logits, config.patch)
    return Reference(features.depth.numpy(), logits.numpy(), coverage.numpy())


@contextmanager
def all_cores() -> Iterator[None]:
    """`network_scenes` sets one thread for its small networks; this one is larger."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", params=LIMITS)
def tiny(request: pytest.FixtureRequest) -> Iterator[tuple[TorchEngines, str]]:
    yield on_gpu(TINY, precision=request.param), request.param
    torch.cuda.empty_cache()


@pytest.mark.parametrize("number", range(len(CASES)))
def test_plain_runs_and_graphs_are_the_network(tiny: tuple[TorchEngines, str], number: int) -> None:
    engines, precision = tiny
    case = CASES[number]
    pixels, geometry = preprocess(case.sample.pixels(), network().config.fit)
    given = make_prompts(case, geometry, number)
    limits = LIMITS[precision]
    for use in range(CAPTURE_AT + 1):  # without a graph, at the capture, and as a replay
        measured = compare(
            engines, case.sample.name, pixels, geometry, given, lambda: reference(number)
        )
        said = f"use {use + 1}: {measured}"
        assert measured.depth_error <= limits.depth_error, said
        assert measured.logit_error <= limits.logit_error, said
        assert measured.mask_iou >= limits.mask_iou, said
        assert measured.coverage_changed <= limits.coverage_changed, said
        assert measured.row_difference <= limits.row_difference, said
    kept = runner_of(engines).kept
    grid = geometry.grid_height, geometry.grid_width
    assert GraphKey(grid, 0) in kept.encodes
    assert grid in kept.clicks.grids()


# -- graphs, buckets, shapes: against the same engine without graphs --------------------------


class Both:
    """The same calls with graphs and without, both on the GPU, in fp32."""

    def __init__(self, file: Path, graphs: int = 32) -> None:
        self.graphs, self.plain = on_gpu(file, graphs), on_gpu(file, 0)

    def encode(self, geometry: Geometry, seed: int) -> tuple[TorchState, TorchState]:
        pixels = image(geometry, seed)["image"]
        return self.graphs.encode(pixels, geometry), self.plain.encode(pixels, geometry)

    def check(self, states: tuple[TorchState, TorchState], count: int, seed: int = 0) -> None:
        given = prompts(states[0].geometry, count, seed)
        got = self.graphs.decode_masks(states[0], given, want_logits=True)
        want = self.plain.decode_masks(states[1], given, want_logits=True)
        assert got.logits is not None
        assert want.logits is not None
        scale = np.abs(want.logits).max()
        np.testing.assert_allclose(got.logits, want.logits, atol=1e-3 * scale)
        assert np.abs(got.coverage.astype(int) - want.coverage).max() <= 26
        assert_packed(got, states[0].geometry)


def assert_packed(got: DecodedMasks, geometry: Geometry) -> None:
    """The masks equal those that NumPy makes of the same logits, bit for bit."""
    assert got.logits is not None
    masks = postprocess(got.logits, geometry)
    assert [row.tobytes() for row in got.packed] == [pack_mask(mask) for mask in masks]


def test_every_number_of_objects(micro: Path) -> None:
    both = Both(micro)
    states = both.encode(WIDE, 1)
    for count in (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 63, 64, 67):
        for use in range(CAPTURE_AT + 1):
            both.check(states, count, seed=count + use)
    clicks = runner_of(both.graphs).kept.clicks
    grid = WIDE.grid_height, WIDE.grid_width
    assert all(GraphKey(grid, bucket) in clicks for bucket in (1, 2, 4, 8, 16, 32, 64))


def test_images_and_shapes_take_turns_in_one_pool_of_memory(micro: Path) -> None:
    both = Both(micro)
    states = [
        both.encode(geometry, seed)
        for seed, geometry in enumerate([WIDE, TALL, SQUARE, FLAT, WIDE, TALL, SQUARE, FLAT])
    ]
    order = np.random.default_rng(0)
    for number in range(120):
        which = int(order.integers(len(states)))
        both.check(states[which], int(order.integers(1, 9)), seed=number)
        if number % 10 == 0:  # the replay of an encode writes into the same memory pool
            states[which] = both.encode(states[which][0].geometry, number)
    kept = runner_of(both.graphs).kept
    assert kept.clicks.replays > kept.clicks.captures > 4
    assert kept.encodes.replays > 0


def test_uploads_beside_a_capture(micro: Path) -> None:
    """Allocations of other threads must not disturb a capture, and must not be captured."""
    both = Both(micro)
    shapes = [Geometry.fit(112, side, longest=MICRO.longest) for side in range(20, 113, 14)]
    known = [both.encode(geometry, 0) for geometry in shapes]

    def encode(number: int) -> None:
        geometry = shapes[number % len(shapes)]
        pixels = image(geometry, number)["image"]
        got, want = both.graphs.encode(pixels, geometry), both.plain.encode(pixels, geometry)
        depth = want.arrays["depth"]
        np.testing.assert_allclose(
            got.arrays["depth"], depth, atol=1e-3 * float(np.abs(depth).max())
        )

    def click(number: int) -> None:
        both.check(known[number % len(known)], 1 + number % 5, seed=number)

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(work, n) for n in range(64) for work in (encode, click)]
        assert len([job.result() for job in jobs]) == 128
    assert runner_of(both.graphs).kept.clicks.captures > len(shapes)


def test_with_room_for_one_graph(micro: Path) -> None:
    both = Both(micro, graphs=1)
    states = [both.encode(WIDE, 1), both.encode(TALL, 2)]
    for number in range(24):
        both.check(states[number // 3 % 2], 1 + number // 6 % 2, seed=number)
    kept = runner_of(both.graphs).kept
    assert len(kept.clicks) == len(kept.encodes) == len(kept.states) == 1
    assert kept.clicks.evictions > 1


def test_without_graphs_nothing_is_captured(micro: Path) -> None:
    both = Both(micro)
    kept = runner_of(both.plain).kept
    both.check(both.encode(WIDE, 1), 3)
    assert kept.clicks.captures == kept.encodes.captures == 0


# -- a full GPU ------------------------------------------------------------------------------


@contextmanager
def memory_left(nbytes: int) -> Iterator[None]:
    """Limit PyTorch to the memory that it holds now plus `nbytes`."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + nbytes) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_full_gpu_is_a_clear_error_and_recovers(micro: Path) -> None:
    both = Both(micro)
    states = both.encode(WIDE, 1)
    both.check(states, 2)
    given = prompts(WIDE, 64)
    # Without graphs, so there is nothing to drop.
    with memory_left(2**20), pytest.raises(ServerOverloaded, match="the GPU is out of memory"):
        both.plain.decode_masks(states[1], given, want_logits=False)
    for use in range(CAPTURE_AT + 1):
        both.check(states, 64, seed=use)


def test_graphs_are_dropped_for_a_call_that_needs_their_memory(micro: Path) -> None:
    both = Both(micro)
    states = both.encode(WIDE, 1)
    for use in range(CAPTURE_AT):
        both.check(states, 64, seed=use)
    kept = runner_of(both.graphs).kept
    assert len(kept.clicks) > 0
    given = prompts(WIDE, 32)  # the first use runs without a graph and does not fit
    with memory_left(2**20):
        got = both.graphs.decode_masks(states[0], given, want_logits=True)
    assert len(kept.clicks) == 0
    assert_packed(got, WIDE)


def test_a_capture_that_does_not_fit_becomes_a_run_without_a_graph(micro: Path) -> None:
    """The graph's pool needs memory that a run without a graph takes from the cache."""
    both = Both(micro)
    states = both.encode(TALL, 1)
    for use in range(CAPTURE_AT - 1):
        both.check(states, 64, seed=use)
    torch.cuda.empty_cache()
    runner = runner_of(both.graphs)
    captures = runner.kept.clicks.captures
    device = runner._device
    failed: list[str] = []
    capture = device.capture

    def fails_inside(run, lane):  # type: ignore[no-untyped-def]
        def run_and_fill() -> object:
            if torch.cuda.is_current_stream_capturing():
                failed.append("while capturing")
                torch.empty(2**50, dtype=torch.uint8, device="cuda")
            return run()

        return capture(run_and_fill, lane)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "capture", fails_inside)
        both.check(states, 64, seed=5)
    assert failed == ["while capturing"]
    assert runner.kept.clicks.captures == captures
    for use in range(2 * CAPTURE_AT + 1):  # the device captures again
        both.check(states, 64, seed=use)
    assert runner.kept.clicks.captures == captures + 1


def test_a_capture_that_waits_for_the_gpu_becomes_a_plain_run(
    micro: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Waiting is not allowed during a capture; PyTorch and CUDA must be usable afterwards."""
    both = Both(micro)
    states = both.encode(TALL, 1)
    runner = runner_of(both.graphs)
    decode = runner._decode

    def waits(*given):  # type: ignore[no-untyped-def]
        logits, coverage = decode(*given)
        if len(logits) == 2 and torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream().synchronize()
        return logits, coverage

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_decode", waits)
        for use in range(CAPTURE_AT + 1):
            both.check(states, 2, seed=use)
    assert runner.failures == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for use in range(CAPTURE_AT + 1):  # other shapes are captured
        both.check(states, 4, seed=use)
    assert GraphKey((TALL.grid_height, TALL.grid_width), 4) in runner.kept.clicks


def test_clicks_beside_encodes(micro: Path) -> None:
    """Clicks on one stream are not disturbed by the encodes of another."""
    both = Both(micro)
    known = both.encode(WIDE, 0)
    for use in range(CAPTURE_AT):
        both.check(known, 1, seed=use)
    encoded = [both.encode(TALL, seed) for seed in range(3)]

    def encode(number: int) -> None:
        got = both.graphs.encode(image(TALL, number % 3)["image"], TALL)
        want = encoded[number % 3][1].arrays["depth"]
        scale = float(np.abs(want).max())
        np.testing.assert_allclose(got.arrays["depth"], want, atol=1e-3 * scale)

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(encode, n) for n in range(60)]
        jobs += [pool.submit(both.check, known, 1, n) for n in range(60)]
        assert len([job.result() for job in jobs]) == 120


# -- masks -----------------------------------------------------------------------------------

SIZES = [(1, 1), (7, 3), (130, 97), (97, 130), (333, 101), (1023, 681), (4000, 3001)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_masks_are_numpys_bit_for_bit(width: int, height: int, dtype: torch.dtype) -> None:
    geometry = Geometry.fit(width, height, longest=112)
    assert_masks_equal(geometry, 2, dtype)


def test_masks_in_bands_and_of_many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry.fit(333, 101, longest=112)
    assert_masks_equal(geometry, 64, torch.float32)
    monkeypatch.setattr(torch_masks, "_BAND_BYTES", 5000)
    assert_masks_equal(geometry, 3, torch.float32)


def assert_masks_equal(geometry: Geometry, count: int, dtype: torch.dtype) -> None:
    shape = (count, geometry.network_height, geometry.network_width)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[0, ::3] = 0.0  # exactly on the threshold
    packed = pack_masks(logits.cuda(), geometry).cpu().numpy()
    want = postprocess(logits.float().numpy(), geometry)
    assert [row.tobytes() for row in packed] == [pack_mask(mask) for mask in want]


# -- kernels ---------------------------------------------------------------------------------


def measured_rows(keys: int, objects: Sequence[int]) -> list[Measurement]:
    config = network().config
    calls = [
        Call(n, 48, config.prompt_dim, keys, config.fusion_heads, torch.float16) for n in objects
    ]
    return [Measurement(call, 1.0, 2.0, Blocks(64, 64, 2)) for call in calls]


def test_kernels_for_what_was_measured_and_pytorch_for_the_rest() -> None:
    """In half precision, with graphs, for numbers of objects inside and outside the table."""
    pytest.importorskip("triton", reason="the kernels need Triton")
    from ois_runtime.torch.cuda import CudaDevice

    config = network().config
    pixels, geometry = preprocess(LANDSCAPE.pixels(), config.fit)
    rows, columns = geometry.position_matrices(config.position_table)
    given = {"image": pixels, "pos_rows": rows, "pos_cols": columns}
    table = measured_rows(geometry.grid_height * geometry.grid_width, (2, 8))
    asked: dict[int, bool] = {}

    def choice(call: Call, _device: torch.device) -> Blocks | None:
        blocks = choose(table, call)
        asked[call.objects] = blocks is not None
        return blocks

    def open_runner(attention: KernelAttention) -> GraphRunner:
        whole = load_checkpoint(TINY).network.requires_grad_(False)
        set_attention_ops(whole, attention)
        rewrites = Rewrites(cached_kv=True)
        encoder, decoder = ImageEncoder(whole, rewrites), ClickDecoder(whole, rewrites)
        lower_precision(encoder, decoder, torch.float16)
        device = CudaDevice(torch.device("cuda", torch.cuda.current_device()))
        return GraphRunner(encoder.cuda(), decoder.cuda(), device, cuda_graphs=8)

    kernels = open_runner(KernelAttention(choice))
    plain = open_runner(KernelAttention(lambda _call, _device: None))
    states = [
        TorchState.of(each.encode(given, size_of(geometry)), geometry) for each in (kernels, plain)
    ]
    for count in (1, 2, 3, 8, 16):
        clicks = prompts(geometry, count, seed=count)
        for use in range(CAPTURE_AT + 1):
            got = kernels.decode(states[0], clicks, Wanted(logits=True)).logits
            want = plain.decode(states[1], clicks, Wanted(logits=True)).logits
            assert got is not None
            assert want is not None
            error = np.abs(got - want).max() / np.abs(want).max()
            assert error < 0.02, f"{count} objects, use {use + 1}: {error}"
    # 3 objects run as 3 first, then in the bucket of 4.
    assert asked == {1: False, 2: True, 3: True, 4: True, 8: True, 16: False}


# -- as users call it ------------------------------------------------------------------------


def test_a_client_on_the_gpu_sees_the_cpus_masks() -> None:
    picture = LANDSCAPE.pixels()
    masks = {}
    for device in ("cpu", "cuda"):
        with Client(open_transport(str(TINY), device=device, precision="fp32")) as client:
            session = client.open(picture)
            masks[device] = [session.click(x, y) for x, y in ((300, 200), (120, 80), (450, 300))]
            session.undo()
            np.testing.assert_array_equal(session.click(450, 300), masks[device][-1])
    for got, want in zip(masks["cuda"], masks["cpu"], strict=True):
        both, either = (got & want).sum(), (got | want).sum()
        assert both / either > 0.995


# -- what moves, what is resized, what is compiled ------------------------------------------


def test_a_click_copies_prompts_in_and_masks_out(micro: Path) -> None:
    """Counted by PyTorch's profiler: no feature and no logit crosses the bus."""
    engines = on_gpu(micro, precision="fp16")
    state = engines.encode(image(WIDE, 1)["image"], WIDE)
    given = prompts(WIDE, 1)
    for _ in range(CAPTURE_AT + 1):
        engines.decode_masks(state, given, want_logits=False)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        answer = engines.decode_masks(state, given, want_logits=False)
    moved = {"HtoD": 0, "DtoH": 0}
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        for way in moved:
            if way in event.name():
                moved[way] += event.nbytes()
    assert 0 < moved["HtoD"] <= prompt_layout(1, WIDE.coverage_shape).nbytes
    assert 0 < moved["DtoH"] <= answer.packed.nbytes + answer.coverage.nbytes


@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (4000, 3000), (60, 90), (1006, 1024)])
def test_images_are_resized_as_by_pillow(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    want, geometry = preprocess(pixels, network().config.fit)
    got = resize(torch.from_numpy(pixels).cuda(), geometry.network_height, geometry.network_width)
    np.testing.assert_array_equal(got.cpu().numpy(), want)


def test_compiled_halves_are_captured_and_compute_the_same(
    micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch._dynamo.reset()
    plain = on_gpu(micro, precision="fp16")
    options = EngineOptions(device="cuda", precision="fp16", compile="on")
    compiled = open_engines(micro, options)
    assert isinstance(compiled, TorchEngines)
    assert runner_of(compiled).failures == 0
    side = MICRO.longest
    square = Geometry.fit(side, side, longest=side)
    pixels = image(square, 1)["image"]
    given = prompts(square, 1)
    answers = []
    for engines in (plain, compiled):
        state = engines.encode(pixels, square)
        answers.append(engines.decode_masks(state, given, want_logits=True).logits)
    want, got = answers
    assert np.abs(got - want).max() <= 0.05 * np.abs(want).max()
