"""PyTorch's own fused attentions, and which of them is fastest on this GPU.

PyTorch has three for GPUs: cuDNN's, Flash and memory-efficient. It tries them in a fixed order,
which differs between its versions and is not always the fastest. So an engine measures, once for
each half of the network, and keeps the result in the user's cache, in a file for each GPU and
version of PyTorch and cuDNN.

    encode   self-attention of the ViT, no mask
    click    all masked attention of a click on one object; Flash takes no mask, so PyTorch skips it

*Not run on a GPU yet.* Tests run it on a CPU with an invented stopwatch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ois_client.contract.clicks import SLOTS
from ois_network.attention import TorchAttention
from ois_network.config import EncoderFamily, NetworkConfig
from ois_network.kernels.cached import Kept, cudnn_version, gpu_name
from ois_network.kernels.choice import WORTH
from ois_network.kernels.click_attention import ClickAttention
from ois_network.kernels.here import Stopwatch
from ois_network.kernels.operations import can_use_kernels
from ois_network.kernels.slots import Call

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")


class Fused(StrEnum):
    """One of PyTorch's attentions. PYTORCH: in PyTorch's own order."""

    PYTORCH = "pytorch"
    CUDNN = "cudnn"
    FLASH = "flash"
    EFFICIENT = "efficient"


_BACKENDS = {
    Fused.CUDNN: SDPBackend.CUDNN_ATTENTION,
    Fused.FLASH: SDPBackend.FLASH_ATTENTION,
    Fused.EFFICIENT: SDPBackend.EFFICIENT_ATTENTION,
}
#: What each half can use besides PyTorch's own order.
ENCODE = (Fused.CUDNN, Fused.FLASH, Fused.EFFICIENT)
CLICK = (Fused.CUDNN, Fused.EFFICIENT)


@dataclass(frozen=True, slots=True)
class FusedChoice:
    """The attention of each half of the network."""

    encode: Fused = Fused.PYTORCH
    click: Fused = Fused.PYTORCH


@contextmanager
def preferred(fused: Fused) -> Iterator[None]:
    """In this block PyTorch's attention tries `fused` first, then the others.

    Nothing is switched off, because the order belongs to the process: another engine that computes
    at the same time must still find an attention for what it computes. At worst it gets this order.
    """
    if fused is Fused.PYTORCH:
        yield
        return
    first = _BACKENDS[fused]
    others = [backend for backend in _BACKENDS.values() if backend != first]
    with sdpa_kernel([first, *others, SDPBackend.MATH], set_priority=True):
        yield


def with_preferred(fused: Fused, run: Callable[..., Result]) -> Callable[..., Result]:
    """`run`, always in a `preferred` block."""
    if fused is Fused.PYTORCH:
        return run

    def preferring(*given: Any) -> Result:
        with preferred(fused):
            return run(*given)

    return preferring


def fused_here(
    config: NetworkConfig,
    dtype: torch.dtype,
    device: torch.device,
    stopwatch: Stopwatch,
    folder: Path | None = None,
) -> FusedChoice:
    """The choice for this network on this device: from the cache, or measured now.

    folder: the cache; default `cache_folder()`. If something fails, the log says so, and PyTorch
    chooses.
    """
    kept = Kept(
        "attention",
        [
            *(gpu_name(device), torch.__version__, cudnn_version(device), dtype),
            *(config.longest, config.patch, config.encoder, config.embed_dim, config.heads),
            *(config.prompt_dim, config.fusion_heads, can_use_kernels(config)),
        ],
        folder,
    )
    choice = _choice(kept.read())
    if choice is not None:
        return choice
    try:
        times = {
            "encode": _times(ENCODE, _encode_attention(config, dtype, device), stopwatch),
            "click": _times(CLICK, _click_attention(config, dtype, device), stopwatch),
        }
    except Exception as error:  # a full GPU
        _LOG.warning("PyTorch chooses its attention by itself on this GPU: %s", error)
        return FusedChoice()
    choice = FusedChoice(*(fastest(times[half]) for half in ("encode", "click")))
    kept.write({"choice": asdict(choice), "us": times})
    return choice


def fastest(times: dict[Fused, float]) -> Fused:
    """The fastest of `times` in microseconds; PyTorch's order unless another is clearly faster."""
    usual = times.get(Fused.PYTORCH)
    if usual is None:
        return Fused.PYTORCH
    best = min(times, key=lambda fused: times[fused])
    return best if times[best] <= WORTH * usual else Fused.PYTORCH


def _choice(kept: dict[str, Any] | None) -> FusedChoice | None:
    if kept is None:
        return None
    try:
        return FusedChoice(**{half: Fused(name) for half, name in kept["choice"].items()})
    except (KeyError, ValueError, TypeError, AttributeError):
        return None  # damaged: measured again, and replaced


def _times(
    candidates: tuple[Fused, ...], run: Callable[[], object] | None, stopwatch: Stopwatch
) -> dict[Fused, float]:
    """Microseconds of each candidate and of PyTorch's order; empty if there is nothing to run."""
    times: dict[Fused, float] = {}
    if run is None:
        return times
    for fused in (Fused.PYTORCH, *candidates):
        with preferred(fused):
            try:
                times[fused] = stopwatch(run)
            except RuntimeError:
                if fused is Fused.PYTORCH:
                    raise
                # A library that cannot run here, or that no graph can capture, is not chosen.
    return times


def _encode_attention(
    config: NetworkConfig, dtype: torch.dtype, device: torch.device
) -> Callable[[], object] | None:
    """One self-attention of the ViT on its largest square; None for encoders without a ViT."""
    if config.encoder is not EncoderFamily.DINOV2:
        return None
    tokens = 1 + (config.longest // config.patch) ** 2
    draw = torch.Generator(device).manual_seed(0)
    shape = (3, 1, tokens, config.embed_dim)
    query, key, value = torch.randn(shape, generator=draw, device=device).to(dtype)
    attention = TorchAttention()
    return lambda: attention.attend(query, key, value, config.heads, None)


def _click_attention(
    config: NetworkConfig, dtype: torch.dtype, device: torch.device
) -> Callable[[], object] | None:
    """The masked attention of one click; None for networks without it."""
    if not can_use_kernels(config):
        return None
    side = config.longest // config.patch
    call = Call(1, SLOTS, config.prompt_dim, side**2, config.fusion_heads, dtype)
    return ClickAttention.random(call, (side, side), device).by_torch
