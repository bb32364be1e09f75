"""What a GPU can do at most, for the roofline of `ois bench report`. *Not run on a GPU yet.*

    python -m ois_benchmarks.gpu.ceilings --output gpu-ceilings.json

Products of two large matrices in each precision, and a copy of one GiB, from CUDA graphs by CUDA
events: what PyTorch reaches on this GPU, not a data sheet. fp32 is without TF32. Peers' own code
lets cuDNN round convolutions to TF32, so theirs may pass that roof.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ois_benchmarks import machine
from ois_benchmarks.gpu.timing import GraphTimer, Rates, require_gpu
from ois_benchmarks.latency.engines import save
from ois_benchmarks.roofline import Ceilings
from ois_client.contract.errors import OISError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_REPEATS = 20


def measure() -> Ceilings:
    """A few seconds. Raises `InvalidInput` without a GPU."""
    device = require_gpu()
    timer = GraphTimer(device, _REPEATS)
    rates = {name: timer.rates(dtype) for name, dtype in DTYPES.items()}
    return ceilings_of(rates, torch.cuda.get_device_name(device))


def ceilings_of(rates: dict[str, Rates], gpu: str) -> Ceilings:
    """rates: by precision."""
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


def arguments() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ois_benchmarks.gpu.ceilings",
        description="What this GPU reaches at most, for the roofline of `ois bench report`.",
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON, beside the results")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = arguments().parse_args(argv)
    try:
        found = measure()
        save(found.to_dict(), options.output)
    except OISError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    peaks = ", ".join(f"{rate / 1e12:.0f} TFLOP/s {name}" for name, rate in found.peaks().items())
    print(f"{found.where}: {peaks}, {found.bytes_per_s / 1e12:.2f} TB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
