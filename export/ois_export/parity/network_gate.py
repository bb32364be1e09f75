"""The parity gate of `ois export`: compares exported engines with the PyTorch network.

Every case runs both engines, in the runtime that users get, on a crop of a photograph. The
reference is the *unrewritten* network in fp32, one object at a time. So one gate covers the
rewrites, the export and the runtime. N identical objects must also get equal rows, which needs
no reference and finds known compiler bugs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ois_export.parity.cases import CASES, Case, make_prompts, one_object
from ois_export.parity.comparison import (
    Limits,
    Measurement,
    Progress,
    Reference,
    check_limits,
    compare,
)
from ois_network.network import ImageFeatures, OISNetwork
from ois_network.order import coverage_of_logits
from ois_runtime.engines.pair import EnginePair, HostPrompts
from ois_runtime.engines.pixels import preprocess


def run_gate(
    network: OISNetwork,
    engines: EnginePair,
    *,
    limits: Limits | None = None,
    cases: Sequence[Case] = CASES,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Run every case and return the manifest's record of the comparison.

    limits: default those of fp32. Raises `ParityError` naming each value that exceeds its limit.
    """
    measured = []
    for number, case in enumerate(cases, start=1):
        progress(
            f"parity {number}/{len(cases)}: {case.sample.name}, {len(case.objects)} object(s), "
            f"up to {case.clicks} click(s)"
        )
        measured.append(measure(network, engines, case, seed=number))
    return check_limits(
        measured,
        limits or Limits(),
        engines=engines.description,
        reference="the PyTorch network in fp32",
    )


def measure(network: OISNetwork, engines: EnginePair, case: Case, *, seed: int) -> Measurement:
    """Run one case on the engines and the network, and return the differences."""
    config = network.config
    image, geometry = preprocess(case.sample.pixels(), config.fit)
    prompts = make_prompts(case, geometry, seed)

    def reference() -> Reference:
        with torch.no_grad():
            matrices = geometry.position_matrices(config.position_table)
            rows, columns = map(torch.from_numpy, matrices)
            features = network.encode(torch.from_numpy(image.copy()).unsqueeze(0), rows, columns)
            return Reference(features.depth.numpy(), *_reference(network, features, prompts))

    return compare(engines, case.sample.name, image, geometry, prompts, reference)


def _reference(
    network: OISNetwork, features: ImageFeatures, prompts: HostPrompts
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Logits and coverage from the network, one object at a time to save memory."""
    logits, coverage = [], []
    for row in range(len(prompts.labels)):
        one = network.click(features, one_object(prompts, row).map(torch.from_numpy))
        logits.append(one.numpy())
        coverage.append(coverage_of_logits(one, network.config.coverage_stride).numpy())
    return np.concatenate(logits), np.concatenate(coverage)
