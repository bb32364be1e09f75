"""The parity gate: an engine that does not compute what the network computes is not written.

Every case runs the exported pair, through the very runtime that users get, on a crop of a
real photograph and compares it with the *unrewritten* PyTorch network in fp32, object by
object. So one gate covers the rewrites, the export and the runtime at once. N identical rows
must also agree with each other: that needs no reference, and open compiler bugs fail there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ois_export.parity.cases import CASES, Case, make_prompts, one_object
from ois_export.parity.comparison import Limits, Measurement, Progress, Reference, compare, judge
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
    """Measure every case; returns the manifest's record (see `comparison.judge`).

    Raises `ParityError` naming each case and number that is out of its limit.
    """
    measured = []
    for number, case in enumerate(cases, start=1):
        progress(
            f"parity {number}/{len(cases)}: {case.sample.name}, {len(case.objects)} object(s), "
            f"up to {case.clicks} click(s)"
        )
        measured.append(measure(network, engines, case, seed=number))
    return judge(
        measured,
        limits or Limits(),
        engines=engines.description,
        reference="the PyTorch network in fp32",
    )


def measure(network: OISNetwork, engines: EnginePair, case: Case, *, seed: int) -> Measurement:
    """Run one case on both sides."""
    config = network.config
    image, geometry = preprocess(case.sample.pixels(), longest=config.longest, patch=config.patch)
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
    """Object by object: rows are independent, and memory stays that of one."""
    logits, coverage = [], []
    for row in range(len(prompts.labels)):
        one = network.click(features, one_object(prompts, row).map(torch.from_numpy))
        logits.append(one.numpy())
        coverage.append(coverage_of_logits(one, network.config.patch).numpy())
    return np.concatenate(logits), np.concatenate(coverage)
