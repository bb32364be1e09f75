"""The torch engine with `torch.compile`: one graph and few kernels for each half, the same masks.

The compiler makes C++ for the CPU here, by the same path as Triton kernels for a GPU. Translating
that C++ takes minutes, so it is done only with OIS_COMPILE_TESTS=1; otherwise the kernels are
generated and counted, and not run.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import metrics
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.sessions.client import Client
from ois_network.attention import set_attention_ops
from ois_network.checkpoints.checkpoint import save_checkpoint
from ois_network.half import lower_precision
from ois_network.kernels import compiled
from ois_network.kernels.cached import Kept
from ois_network.kernels.compiled import CompiledHalf, Sample, compile_halves
from ois_network.kernels.dot import use_dot_products
from ois_network.kernels.fused import FusedChoice
from ois_network.kernels.operations import KernelAttention, measured_choice
from ois_network.split import ClickDecoder, ImageEncoder
from ois_runtime.engines.backends import Compiling, EngineBackend, EngineOptions
from ois_runtime.torch import engine
from support.network_scenes import MICRO, random_network
from support.torch_graphs import WIDE, image, prompts

pytestmark = pytest.mark.filterwarnings("default")  # the compiler's own

#: Kernels that the compiler generates for MICRO in bf16 (141 and 98), with a margin. Products,
#: convolutions and attentions are the libraries' and do not count. More mean that less is fused.
MOST_KERNELS = {"encode": 155, "click": 108}
#: The relative difference that bf16 allows: fused operations round less often.
TOLERANCE = 3e-2


@pytest.fixture
def translated(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether kernels are translated and run. Otherwise they are only generated."""
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is none")
    torch._dynamo.reset()
    counters.clear()
    if os.environ.get("OIS_COMPILE_TESTS"):
        return True

    def generated(_compiler: AsyncCompile, _types: list[str], source: str) -> Any:
        assert "extern" in source
        return lambda *_arguments: None

    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", generated)
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    return False


def halves() -> tuple[ImageEncoder, ClickDecoder]:
    """As the engine makes them for a GPU in half precision."""
    network = random_network(MICRO, seed=1).requires_grad_(False)
    set_attention_ops(network, KernelAttention(measured_choice([])))
    encoder, decoder = ImageEncoder(network), ClickDecoder(network)
    lower_precision(encoder, decoder, torch.bfloat16)
    for half in (encoder, decoder):
        half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_dot_products(network.depth_head, network.mask_head)
    return encoder, decoder


def sample() -> Sample:
    return Sample(
        [torch.tensor(array) for array in image(WIDE, 1).values()],
        list(prompts(WIDE, 1).map(torch.tensor)),
    )


@pytest.mark.usefixtures("one_thread")
def test_each_half_is_one_graph_of_few_kernels(translated: bool) -> None:
    encoder, decoder = halves()
    given = sample()
    kernels: dict[str, int] = {}
    with torch.inference_mode():
        state = encoder(*given.image)
        for name, half, inputs in (
            ("encode", encoder, given.image),
            ("click", decoder, (state, *given.prompts)),
        ):
            metrics.reset()
            got, want = CompiledHalf(half).learn(*inputs), half(*inputs)
            kernels[name] = metrics.generated_kernel_count
            names = list(want) if isinstance(want, dict) else range(len(want))
            for each in names:
                one, same = got[each], want[each]
                assert (one.dtype, one.shape) == (same.dtype, same.shape)
                if translated:
                    difference = (one.double() - same.double()).norm()
                    assert difference <= TOLERANCE * same.double().norm().clamp(min=1), each
    assert not counters["graph_break"]
    assert 0 < kernels["encode"] <= MOST_KERNELS["encode"], kernels
    assert 0 < kernels["click"] <= MOST_KERNELS["click"], kernels


def double(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
    """In place of a compiler: what it makes can be told from the original."""
    return lambda *given: tuple(2 * one for one in graph(*given))


class Thirds(torch.nn.Module):
    def forward(self, *given: Any) -> tuple[torch.Tensor]:
        return (given[-1] / 3,)


class Breaks(torch.nn.Module):
    def forward(self, *given: Any) -> tuple[torch.Tensor]:
        torch._dynamo.graph_break()
        return (given[0] / 3,)


def test_only_shapes_that_were_learned_run_compiled() -> None:
    half = CompiledHalf(Thirds(), double)
    assert half(torch.ones(3))[0].sum() == 1
    assert half.learn(torch.ones(3))[0].sum() == 2
    assert half(torch.ones(3))[0].sum() == 2
    assert half(torch.ones(6))[0].sum() == 2  # 6 / 3


def both(measured: bool, kept: Kept, times: list[float], **modules: Any) -> tuple[float, float]:
    """Sums of the encode and the click of `Thirds` on three ones: 1 as it is, 2 compiled.

    times: what the stopwatch says next.
    """

    def stopwatch(run: Any) -> float:
        run()
        return times.pop(0)

    given = Sample([torch.ones(3)], [torch.ones(3)])
    parts = {"encoder": Thirds(), "decoder": Thirds(), **modules}
    encode, decode = compile_halves(
        *parts.values(), given, stopwatch, kept, FusedChoice(), measured=measured, backend=double
    )
    state: Any = encode(torch.ones(3))
    return float(state[0].sum()), float(decode(state, torch.ones(3))[0].sum())


def test_the_faster_form_of_each_half_is_kept(tmp_path: Path) -> None:
    kept = Kept("compiled", ["here"], tmp_path)
    assert both(False, kept, []) == (2, 2)
    assert not list(tmp_path.iterdir())
    # As it is and compiled, for the encode, then for the click.
    assert both(True, kept, [100, 80, 100, 97]) == (2, 1)
    assert both(True, kept, []) == (2, 1)  # not measured again
    assert both(True, Kept("compiled", ["there"], tmp_path), [9, 10, 10, 9]) == (1, 2)
    (file,) = [file for file in tmp_path.iterdir() if file == kept.file]
    file.write_text("{")
    assert both(True, kept, [9, 10, 9, 10]) == (1, 1)


def test_what_cannot_be_compiled_runs_as_it_is_or_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept("compiled", ["here"], tmp_path)
    with caplog.at_level(logging.WARNING, "ois_network"):
        assert both(True, kept, [9, 8], encoder=Breaks()) == (1, 2)
    assert "the encode is not compiled" in caplog.text
    with pytest.raises(EngineError, match=r"torch.compile failed for the encode .*Triton"):
        both(False, kept, [], encoder=Breaks())


@pytest.mark.usefixtures("one_thread")
def test_an_engine_compiles_what_it_warms_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way from `Client`, with a compiler that changes nothing."""
    file = tmp_path / "micro.safetensors"
    save_checkpoint(random_network(MICRO, seed=1), file, trained=False)
    graphs: list[torch.fx.GraphModule] = []

    def keeps(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def compiles(*given: Any, **options: Any) -> Any:
        return compiled.compile_halves(*given, **options, backend=keeps)

    monkeypatch.setattr(engine, "compile_halves", compiles)
    pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    masks = {}
    for how in ("off", "on"):
        torch._dynamo.reset()
        with Client(f"local:{file}?compile={how}") as client:
            masks[how] = client.open(pixels).click(40, 60)
        assert len(graphs) == (0 if how == "off" else 2)
    np.testing.assert_array_equal(masks["on"], masks["off"])


def test_only_this_backend_compiles() -> None:
    with pytest.raises(InvalidInput, match="got compile = 'fast'; expected one of off, on, measu"):
        EngineOptions(compile="fast")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="the backend openvino does not compile, only torch"):
        EngineOptions(compile=Compiling.ON).check(EngineBackend.OPENVINO)
