"""Exports that several files of tests need: one takes PyTorch 20 s, however small the network."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from ois_export.export import write_engines
from ois_export.targets import Target
from ois_network.checkpoints.checkpoint import Checkpoint
from ois_network.network import OISNetwork
from support.network_scenes import micro

#: Every way in which the exact outlines of `ois-photo` differ from the paper's network.
EXACT_OUTLINES: dict[str, object] = {
    "patch": 16,
    "output_stride": 2,
    "aligned_corners": False,
    "detail_channels": 4,
    "previous_mask": True,
    "fine_prompts": True,
    "keep_clicks": True,
}


def as_checkpoint(network: OISNetwork) -> Checkpoint:
    return Checkpoint(network, network.config, trained=False, sha256="0" * 64, metadata={})


def micro_engines(
    places: pytest.TempPathFactory, *, target: Target = Target.CPU, exact_outlines: bool = False
) -> Path:
    """Engines of `micro()`, exported once in a run of all tests, by whichever worker is first.

    Do not change the folder: copy it.
    """
    base = places.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "exports" / f"{target.value}{'-outlines' * exact_outlines}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "manifest.json").exists():  # which is written last
            network = micro(**(EXACT_OUTLINES if exact_outlines else {}))
            write_engines(as_checkpoint(network), folder, name="micro", target=target)
    return folder
