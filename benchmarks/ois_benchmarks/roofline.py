"""The peak arithmetic and memory rates of a machine, measured, for the roofline.

    {"benchmark": "ceilings", "schema": 1, "fp32_flops": 3.9e11, "bf16_flops": 7.4e11,
     "bytes_per_s": 2.9e10, "kernels": {"product, NumPy, fp32": 3.1e11, ...}, ...}

Those of a GPU are measured by `ois bench ceilings` and written in the same format, with the GPU's
name.

The roofline is a lower bound of a network's time: with F FLOPs and B bytes moved, it takes at least
max(F / peak arithmetic, B / peak bandwidth) seconds. The intensity F / B decides which is larger
(Williams, Waterman and Patterson 2009). A peak is the best repetition of the best kernel. Several
kernels are tried, because no library is the fastest on every processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ois_benchmarks import machine
from ois_benchmarks.results import read_json
from ois_benchmarks.timing import QUIET_SHARE, busy_share
from ois_client.contract.errors import InvalidInput

SCHEMA = 1
#: Precisions that can have a ceiling.
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
#: Precisions that are measured on a processor.
_CPU_PRECISIONS = ("fp32", "bf16", "int8")
#: Side of two square matrices, and channels and side of a 3x3 convolution: large enough to use
#: every core, small enough to take seconds.
_SIDE, _CHANNELS, _GRID = 2048, 256, 128
#: Bytes of each of the three arrays of the triad, much larger than any cache.
_ARRAY_BYTES = 2**28
_ROUNDS = 5
_TRIAD = "triad, PyTorch"

Kernel = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The peak rates of one machine.

    fp32_flops, bf16_flops, fp16_flops, int8_flops: per second, of int8 its integer operations; None
    if the precision is not faster than fp32, because the processor has no instructions for it.
    bytes_per_s: read and written, by c = a + s * b, or on a GPU by a copy. kernels: the rate of
    each. The ceilings hold for `gpu` or, if that is None, for `cpu`, `cores` and `threads`. noisy:
    other programs used the cores, so the ceilings are too low.
    """

    fp32_flops: float
    bf16_flops: float | None
    bytes_per_s: float
    kernels: Mapping[str, float]
    cpu: str
    cores: int
    threads: int
    noisy: bool
    date: str
    fp16_flops: float | None = None
    int8_flops: float | None = None
    gpu: str | None = None

    def peaks(self) -> dict[str, float]:
        """FLOP/s of every precision that has its own ceiling."""
        rates = (self.fp32_flops, self.bf16_flops, self.fp16_flops, self.int8_flops)
        named = zip(PRECISIONS, rates, strict=True)
        return {precision: flops for precision, flops in named if flops}

    def peak(self, precision: str) -> float:
        """FLOP/s for arithmetic in one of `PRECISIONS`."""
        return self.peaks().get(precision, self.fp32_flops)

    @property
    def where(self) -> str:
        """The machine, for people."""
        return self.gpu or f"{self.cpu}, {self.threads} threads"

    def floor_s(self, flops: float, bytes_moved: float, precision: str) -> float:
        """The least possible seconds for this work."""
        return max(flops / self.peak(precision), bytes_moved / self.bytes_per_s)

    def holds_for(self, described: Mapping[str, Any], device: str = "cpu") -> bool:
        """Whether these ceilings apply to a result.

        described: the `machine` of the result. device: "cpu", or else a GPU.
        """
        if device != "cpu" or self.gpu is not None:
            return device != "cpu" and self.gpu is not None and self.gpu == described.get("gpu")
        threads = described.get("threads", described.get("cores"))
        return (self.cpu, self.cores, self.threads) == (
            described.get("cpu"),
            described.get("cores"),
            threads,
        )

    def to_dict(self) -> dict[str, Any]:
        return {"benchmark": "ceilings", "schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Ceilings:
        """Raises `InvalidInput` if the document is something else."""
        needed = {one.name for one in fields(cls) if one.default is MISSING}
        if document.get("schema") != SCHEMA or not needed <= document.keys():
            raise InvalidInput(f"not ceilings of schema {SCHEMA}; measure them again")
        return cls(**{one.name: document[one.name] for one in fields(cls) if one.name in document})


def measure(threads: int | None = None) -> Ceilings:
    """Measure this processor with `threads` threads, by default one per core. Takes seconds."""
    import torch

    described = machine.describe()
    before = busy_share(0.5)
    wanted = threads or machine.available_cores()
    usual = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        found = _best_rates(_kernels())
    finally:
        torch.set_num_threads(usual)
    fp32, bf16, int8 = (
        max(rate for name, rate in found.items() if name.endswith(precision))
        for precision in _CPU_PRECISIONS
    )
    return Ceilings(
        fp32_flops=fp32,
        bf16_flops=bf16 if bf16 > 1.1 * fp32 else None,
        int8_flops=int8 if int8 > 1.1 * fp32 else None,
        bytes_per_s=found[_TRIAD],
        kernels={name: float(f"{rate:.4g}") for name, rate in found.items()},
        cpu=described["cpu"],
        cores=described["cores"],
        threads=wanted,
        noisy=max(before, busy_share(0.5)) > QUIET_SHARE,
        date=described["date"],
    )


def read_ceilings(path: Path) -> Ceilings:
    """Raises `InvalidInput` if the file cannot be read or holds something else."""
    document = read_json(path)
    return Ceilings.from_dict(document if isinstance(document, dict) else {})


def _kernels() -> dict[str, tuple[float, Kernel]]:
    """By name: FLOPs of one run (bytes for the triad), and a function that runs it."""
    import numpy as np
    import torch

    product = 2 * _SIDE**3
    convolution = 2 * 9 * _CHANNELS**2 * _GRID**2
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_SIDE, _SIDE, generator=generator) for _ in range(2))
    image = torch.randn(1, _CHANNELS, _GRID, _GRID, generator=generator)
    weight = torch.randn(_CHANNELS, _CHANNELS, 3, 3, generator=generator)
    a, b, c = (torch.ones(_ARRAY_BYTES // 4) for _ in range(3))

    def torch_product(dtype: torch.dtype) -> Kernel:
        x, y = left.to(dtype), right.to(dtype)
        out = torch.empty(_SIDE, _SIDE, dtype=dtype)
        return lambda: torch.mm(x, y, out=out)

    def torch_integers() -> Kernel:
        x, y = ((40 * each).clamp(-127, 127).to(torch.int8) for each in (left, right))
        return lambda: torch._int_mm(x, y)

    def torch_convolution(dtype: torch.dtype) -> Kernel:
        x, y = (
            each.to(dtype).contiguous(memory_format=torch.channels_last) for each in (image, weight)
        )
        return lambda: torch.nn.functional.conv2d(x, y, padding=1)

    return {
        "product, NumPy, fp32": (product, lambda: np.matmul(left.numpy(), right.numpy())),
        "product, PyTorch, fp32": (product, torch_product(torch.float32)),
        "convolution, PyTorch, fp32": (convolution, torch_convolution(torch.float32)),
        "product, PyTorch, bf16": (product, torch_product(torch.bfloat16)),
        "convolution, PyTorch, bf16": (convolution, torch_convolution(torch.bfloat16)),
        "product, PyTorch, int8": (product, torch_integers()),
        _TRIAD: (3 * _ARRAY_BYTES, lambda: torch.add(a, b, alpha=2.0, out=c)),
    }


def _best_rates(kernels: Mapping[str, tuple[float, Kernel]]) -> dict[str, float]:
    """The best work per second of each kernel. Runs in rounds, to spread disturbances."""
    best = dict.fromkeys(kernels, float("inf"))
    for number in range(_ROUNDS + 1):
        for name, (_, run) in kernels.items():
            started = time.perf_counter()
            run()
            if number:  # the first round only warms up
                best[name] = min(best[name], time.perf_counter() - started)
    return {name: work / best[name] for name, (work, _) in kernels.items()}
