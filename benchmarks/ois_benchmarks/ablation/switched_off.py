"""What a trained network makes of its parts: the same weights, with one part switched off.

    python -m ois_benchmarks.ablation.switched_off [CHECKPOINT] [--objects 100]

No training: where `ois bench ablation` asks what a part is worth to a network that learns without
it, this asks what this network has learned to do with it. A part that changes nothing here is
not used. On the validation scenes, at the network's own size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ois_benchmarks.ablation.result import compared, markdown
from ois_benchmarks.ablation.run import VARIANTS, Variant, row_of
from ois_benchmarks.latency.engines import save
from ois_client.contract.clicks import SLOTS
from ois_client.contract.errors import InvalidInput, OISError
from ois_network.checkpoints.checkpoint import load_checkpoint
from ois_network.network import OISNetwork
from ois_network.training.evaluate import robot_ious
from ois_network.training.memory import keep_freed_memory

#: Switches alone: no other variant can take these weights.
PARTS = tuple(v for v in VARIANTS if all(value is False for value in v.changes.values()))


def without(network: OISNetwork, variant: Variant) -> OISNetwork:
    """The network with `variant`'s switches; what they leave keeps its weights."""
    changed = OISNetwork(network.config.replace(**variant.changes))
    left = changed.state_dict().keys()
    changed.load_state_dict({k: v for k, v in network.state_dict().items() if k in left})
    return changed.eval()


def run(
    checkpoint: Path, *, objects: int, clicks: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """The document that is committed, with a table as `ois bench ablation` has it."""
    if objects < 1 or not 1 <= clicks <= SLOTS:
        raise InvalidInput(
            f"got {objects} objects and {clicks} clicks; expected 1 or more, and 1 to {SLOTS}"
        )
    network = load_checkpoint(checkpoint).network
    longest = network.config.longest
    rows = []
    for number, variant in enumerate(PARTS, 1):
        say(f"{variant.label} ({number} of {len(PARTS)})")
        changed = without(network, variant)
        ious = robot_ious(changed, objects, longest=longest, clicks=clicks, bf16=False)
        rows.append(row_of(variant, 0, changed, ious))
    return {
        "benchmark": "switched-off",
        "checkpoint": checkpoint.stem,
        **compared(rows, PARTS, (0,), objects=objects, clicks=clicks, longest=longest),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="switched_off", description=__doc__.split("\n")[0])
    parser.add_argument(
        "checkpoint", nargs="?", type=Path, default=Path("models/ois-tiny.safetensors")
    )
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--clicks", type=int, default=10)
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/switched-off-ois-tiny.json")
    )
    given = parser.parse_args(arguments)
    keep_freed_memory()
    try:
        document = run(
            given.checkpoint,
            objects=given.objects,
            clicks=given.clicks,
            say=lambda text: print(text, file=sys.stderr),
        )
        table = markdown(document)
        save(document, given.output)
        given.output.with_suffix(".md").write_text(table, encoding="utf-8")
    except (OISError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
