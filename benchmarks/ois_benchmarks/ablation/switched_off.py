"""`ois bench switched-off`: how much a trained network depends on each of its parts.

The same weights are evaluated with one part switched off at a time, without training. `ois bench
ablation` measures what a part is worth to a network that is trained without it; this measures how
far this network relies on the part. If switching a part off changes nothing, the network does not
use it. Evaluated on the validation scenes or another data set, at the network's own size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ois_benchmarks.ablation.evaluation import SCENES, evaluation
from ois_benchmarks.ablation.result import compared
from ois_benchmarks.ablation.run import VARIANTS, NetworkVariant, row_of
from ois_client.contract.clicks import SLOTS
from ois_client.contract.errors import InvalidInput
from ois_network.checkpoints.checkpoint import load_checkpoint
from ois_network.initialise import altered
from ois_network.network import OISNetwork

#: Variants that only switch parts off. No other variant can load these weights.
PARTS = (
    *(v for v in VARIANTS if all(value is False for value in v.changes.values())),
    NetworkVariant(
        "no-previous-mask", "without the previous mask on patches", {"previous_mask": False}
    ),
    NetworkVariant("no-fine-prompts", "without fine prompts", {"fine_prompts": False}),
    NetworkVariant("no-kept-clicks", "without corrected clicks", {"keep_clicks": False}),
)


def without(network: OISNetwork, variant: NetworkVariant) -> OISNetwork:
    """The network with the parts of `variant` switched off; all other weights stay."""
    return altered(network, variant.changes).network


def run(
    checkpoint: Path,
    *,
    objects: int | None,
    clicks: int,
    say: Callable[[str], None],
    data: str = SCENES,
) -> dict[str, Any]:
    """Evaluate, and return the result, JSON-ready, with the same table as an ablation.

    data, objects: what to click on, see `evaluation`. clicks: robot clicks per object.
    """
    if (objects is not None and objects < 1) or not 1 <= clicks <= SLOTS:
        raise InvalidInput(
            f"got {objects} objects and {clicks} clicks; expected at least 1 object, and 1 to "
            f"{SLOTS} clicks"
        )
    network = load_checkpoint(checkpoint).network
    longest = network.config.longest
    chosen = evaluation(data, objects)
    parts = [part for part in PARTS if all(getattr(network.config, name) for name in part.changes)]
    rows = []
    for number, variant in enumerate(parts, 1):
        say(f"{variant.label} ({number} of {len(parts)})")
        changed = without(network, variant)
        ious = chosen.ious(changed, longest=longest, clicks=clicks, bf16=False)
        rows.append(row_of(variant, 0, changed, ious))
    return {
        "benchmark": "switched-off",
        "checkpoint": checkpoint.stem,
        **compared(rows, parts, (0,), data=chosen.label, clicks=clicks, longest=longest),
    }
