"""Peers whose own code cannot run in this toolkit's environment: rows with the reason.

A figure from a rewritten copy would not be theirs, so there is none. To measure one of them, use an
environment with what the reason names, and an adapter of your own (`--contestant module:function`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from ois_benchmarks.contestants.base import NotHere, Place


@dataclass(frozen=True, slots=True)
class Unsupported:
    """label: the network. repository: on GitHub, and the commit that was read. reason: a clause."""

    label: str
    repository: str
    reason: str


_HRSAM = (
    "its encoder imports the CUDA extension selective_scan_cuda_core and xformers 0.0.22, whose "
    "wheels are for PyTorch 2.0, and has no form for a CPU"
)

VARIANTS = {
    "hrsam": Unsupported(
        "HR-SAM",
        "YouHuang67/High-Resolution-Segment-Anything 881cfc0",
        _HRSAM,
    ),
    "hrsam-plusplus": Unsupported(
        "HR-SAM++",
        "YouHuang67/High-Resolution-Segment-Anything 881cfc0",
        _HRSAM,
    ),
    "inter2former": Unsupported(
        "Inter2Former",
        "YouHuang67/inter2former 028dd20",
        "it needs two C++ extensions of its clone, mmcv 2.0.1 with compiled operators, whose "
        "wheels are for PyTorch 2.0, and the copies of mmsegmentation and mmdetection in its clone",
    ),
}


def open_unsupported(place: Place, variant: Unsupported) -> NoReturn:
    """Raises `NotHere` with the reason."""
    del place
    raise NotHere(
        f"{variant.label} ({variant.repository}) is not measured here: {variant.reason}. "
        "docs/benchmarks.md of the repository says how to add an adapter of your own"
    )
