"""What a trained network makes of its parts: the same weights, with one part switched off.

    python -m ois_benchmarks.switched_off [CHECKPOINT] [--objects 100]

No training: where `ois bench ablation` asks what a part is worth to a network that learns without
it, this asks what this network has learned to do with it. A part that changes nothing here is
not used. On the validation scenes, at the network's own size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ois_benchmarks.ablation import VARIANTS, Plan, Variant
from ois_benchmarks.ablation_result import markdown, result
from ois_network.checkpoint import load_checkpoint
from ois_network.network import OISNetwork
from ois_network.training.config import load_recipe
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


def run(plan: Plan, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """-> a row a variant, as `ois_benchmarks.ablation.run` has them."""
    network = load_checkpoint(plan.trunk).network
    rows = []
    for number, variant in enumerate(plan.variants, 1):
        say(f"{variant.label} ({number} of {len(plan.variants)})")
        changed = without(network, variant)
        ious = robot_ious(
            changed, plan.objects, longest=plan.longest, clicks=plan.clicks, bf16=False
        )
        rows.append({
            "variant": variant.name, "seed": 0, "ious": np.round(ious, 5).tolist(),
            "parameters": sum(p.numel() for p in changed.parameters()),
        })  # fmt: skip
    return rows


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
    longest = load_checkpoint(given.checkpoint).network.config.longest
    plan = Plan(
        given.checkpoint, given.output.parent, load_recipe("ablation"), seeds=(0,),
        variants=PARTS, objects=given.objects, clicks=given.clicks, longest=longest,
    )  # fmt: skip
    document = result(plan, run(plan, lambda text: print(text, file=sys.stderr)))
    document["benchmark"] = "switched-off"
    del document["recipe"]  # nothing was trained
    table = markdown(document)
    given.output.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    given.output.with_suffix(".md").write_text(table)
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
