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
    "its encoder imports xformers and a CUDA extension of its clone (selective_scan_cuda_core), "
    "and has no form for a CPU"
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
}


def open_unsupported(place: Place, variant: Unsupported) -> NoReturn:
    """Raises `NotHere` with the reason."""
    del place
    raise NotHere(
        f"{variant.label} ({variant.repository}) is not measured here: {variant.reason}. "
        "docs/benchmarks.md of the repository says how to add an adapter of your own"
    )
