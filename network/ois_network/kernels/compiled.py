"""Both halves of the network by `torch.compile`, for the shapes that were compiled when opening.

The compiler fuses a half's elementwise operations, casts and small products into few kernels. It
takes up to minutes for each shape, so it runs only while the engine opens: for the largest square,
and clicks on one object. Other shapes run as they are. If asked for, both forms are then compared
on this device, and the faster one of each half is used; the user's cache keeps the answer.

*Not run on a GPU yet.* Tests compile both halves on a CPU, where they count kernels.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ois_client.contract.errors import EngineError
from ois_network.config import NetworkConfig
from ois_network.kernels.cached import Kept, cudnn_version, gpu_name
from ois_network.kernels.choice import WORTH
from ois_network.kernels.fused import FusedChoice, preferred
from ois_network.kernels.here import Stopwatch

_LOG = logging.getLogger(__name__)
_RUNS = 5

#: A backend of `torch.compile`.
CompilerBackend = str | Callable[..., Any]


class CompiledHalf:
    """A half that runs compiled for the shapes that it learned, and as it is for all others."""

    def __init__(self, half: nn.Module, backend: CompilerBackend = "inductor") -> None:
        """Compiles nothing yet."""
        self.half = half
        self.compiled = torch.compile(half, fullgraph=True, dynamic=False, backend=backend)
        self._learned: set[tuple[tuple[int, ...], ...]] = set()

    def learn(self, *given: Any) -> Any:
        """Run compiled, and from now on for these shapes. Raises what `torch.compile` raises."""
        result = self.compiled(*given)
        self._learned.add(_shapes(given))
        return result

    def __call__(self, *given: Any) -> Any:
        return (self.compiled if _shapes(given) in self._learned else self.half)(*given)


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs to compile for. image: of the encoder; prompts: of one object."""

    image: Sequence[Tensor]
    prompts: Sequence[Tensor]


def compile_halves(
    encoder: nn.Module,
    decoder: nn.Module,
    sample: Sample,
    stopwatch: Stopwatch,
    kept: Kept,
    attention: FusedChoice,
    *,
    measured: bool,
    backend: CompilerBackend = "inductor",
) -> tuple[Callable[..., dict[str, Tensor]], Callable[..., tuple[Tensor, Tensor]]]:
    """Encoder and decoder to run, each compiled or as it was.

    measured: use the faster form of each half, by `stopwatch`; the answer is in `kept`. Otherwise
    both are compiled. attention: which of PyTorch's attentions is compiled in. Raises `EngineError`
    if a half cannot be compiled, for example without a C++ compiler or Triton; with `measured` the
    log says so, and it runs as it is.
    """
    answer: Mapping[str, Any] = (kept.read() or {}) if measured else {}
    state = encoder(*sample.image)
    halves: dict[str, Any] = {"encode": encoder, "click": decoder}
    found: dict[str, Any] = {}
    given = {"encode": tuple(sample.image), "click": (state, *sample.prompts)}
    for name, fused in asdict(attention).items():
        half, known = halves[name], answer.get(name, {}).get("compiled")
        if known is False:
            continue
        chosen = CompiledHalf(half, backend)
        begin = time.perf_counter()
        try:
            with preferred(fused):
                chosen.learn(*given[name])
        except Exception as error:  # the compiler's errors have no common base class
            said = str(error).partition("\n")[0]
            if not measured:
                raise EngineError(
                    f"torch.compile failed for the {name} ({type(error).__name__}: {said}); open "
                    "the engine without compile, or install what is missing: on a GPU Triton, on a "
                    "CPU a C++ compiler"
                ) from error
            _LOG.warning("the %s is not compiled: %s", name, said)
            continue
        _LOG.info("compiled the %s in %.0f s", name, time.perf_counter() - begin)
        if not measured or known is True:
            halves[name] = chosen
            continue
        with preferred(fused):
            plain_us = stopwatch(partial(half, *given[name]))
            compiled_us = stopwatch(partial(chosen.compiled, *given[name]))
        faster = compiled_us <= WORTH * plain_us
        found[name] = {"compiled": faster, "us": {"plain": plain_us, "compiled": compiled_us}}
        if faster:
            halves[name] = chosen
    if found:
        kept.write({**answer, **found})
    return halves["encode"], halves["click"]


def kept_answer(config: NetworkConfig, dtype: torch.dtype, device: torch.device) -> Kept:
    """Where the answer for this network and device is kept."""
    network = json.dumps(config.to_dict(), sort_keys=True)
    versions = (torch.__version__, cudnn_version(device))
    return Kept("compiled", [gpu_name(device), *versions, dtype, network])


def host_time_us(run: Callable[[], object]) -> float:
    """Median microseconds of `run` on the CPU."""
    samples = []
    for _ in range(_RUNS):
        begin = time.perf_counter()
        run()
        samples.append(1e6 * (time.perf_counter() - begin))
    return median(samples)


def _shapes(given: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(leaf.shape) for leaf in tree_leaves(given))
