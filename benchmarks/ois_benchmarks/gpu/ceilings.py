"""`ois bench ceilings`: the most that a GPU reaches, for the roofline of `ois bench report`.

Products of two large matrices in each precision, and a copy of 1 GiB, replayed from CUDA graphs and
timed by CUDA events. These are rates that PyTorch reaches on this GPU, not those of a data sheet.
fp32 excludes TF32. The peers' own code lets cuDNN round convolutions to TF32, so their rows may
exceed the fp32 roof. *Not run on a GPU yet.*
"""

from __future__ import annotations

import torch

from ois_benchmarks import machine
from ois_benchmarks.gpu.timing import GraphTimer, Rates, require_gpu
from ois_benchmarks.roofline import Ceilings

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_REPEATS = 20


def measure() -> Ceilings:
    """Measure for a few seconds. Raises `InvalidInput` without a GPU."""
    device = require_gpu()
    timer = GraphTimer(device, _REPEATS)
    rates = {name: timer.rates(dtype) for name, dtype in DTYPES.items()}
    return ceilings_of(rates, torch.cuda.get_device_name(device))


def ceilings_of(rates: dict[str, Rates], gpu: str) -> Ceilings:
    """The ceilings of a GPU.

    rates: by precision. gpu: its name, used if the driver does not report one.
    """
    described = machine.describe()
    copied = max(rate.bytes_per_s for rate in rates.values())
    products = {f"product, PyTorch, {name}": rate.flops_per_s for name, rate in rates.items()}
    return Ceilings(
        fp32_flops=rates["fp32"].flops_per_s,
        bf16_flops=rates["bf16"].flops_per_s,
        fp16_flops=rates["fp16"].flops_per_s,
        bytes_per_s=copied,
        kernels={name: float(f"{rate:.4g}") for name, rate in products.items()},
        cpu=described["cpu"],
        cores=described["cores"],
        threads=described["cores"],
        noisy=False,
        date=described["date"],
        gpu=described.get("gpu", gpu),
    )


def summary(found: Ceilings) -> str:
    """The ceilings as one line."""
    peaks = ", ".join(f"{rate / 1e12:.0f} TFLOP/s {name}" for name, rate in found.peaks().items())
    return f"{found.where}: {peaks}, {found.bytes_per_s / 1e12:.2f} TB/s"
