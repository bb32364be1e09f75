"""`ois bench ablation`: what each part of the network is worth, measured on procedural scenes.

Every variant is trained by the same short recipe from the same encoder and depth head, which
stay frozen; prompts, fusion and mask head start anew. A seed decides initial weights, scenes and
clicks, and the variants of a seed share them, so that differences are paired. The robot user
then clicks on held-out objects.

The paper's Table 4 switches off order, object, sparse and dense; its Table 5 adds depth as
features instead of order maps. The rest are choices that the paper leaves open.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ois_client.errors import CheckpointError, InvalidInput
from ois_network.checkpoint import load_checkpoint
from ois_network.config import FusionOrder, ImageUpdate, NetworkConfig
from ois_network.initialise import build, start_mask_head
from ois_network.network import OISNetwork
from ois_network.training.batches import SceneSource
from ois_network.training.config import TrainConfig
from ois_network.training.evaluate import robot_ious
from ois_network.training.state import write_atomically
from ois_network.training.trainer import RunOptions, train


@dataclass(frozen=True, slots=True)
class Variant:
    """A network that differs from the default by `changes` of its config."""

    name: str
    label: str
    changes: dict[str, Any] = field(default_factory=dict)


#: The first is what the others are compared with.
VARIANTS = (
    Variant("default", "default"),
    Variant("no-order", "without order-aware attention's order maps", {"order": False}),
    Variant("no-object", "without object masks", {"object": False}),
    Variant("no-sparse", "without sparse prompts", {"sparse": False}),
    Variant("no-dense", "without dense prompts", {"dense": False}),
    Variant(
        "depth-encoder",
        "depth as features, no order maps",
        {"order": False, "depth_encoder": True},
    ),
    Variant("levels-4", "prompt enters level 4", {"fused_levels": (4,)}),
    Variant("levels-1234", "prompt enters levels 1 to 4", {"fused_levels": (1, 2, 3, 4)}),
    Variant("object-first", "object before order", {"fusion_order": FusionOrder.OBJECT_FIRST}),
    Variant("each-block", "image update in each block", {"image_update": ImageUpdate.EACH_BLOCK}),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an ablation runs. `objects` held-out objects get `clicks` robot clicks each, at
    `longest` network pixels.
    """

    trunk: Path
    folder: Path
    recipe: TrainConfig
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: tuple[Variant, ...] = VARIANTS
    objects: int = 60
    clicks: int = 10
    longest: int = 336
    threads: int = 0


def pick(names: Sequence[str]) -> tuple[Variant, ...]:
    """Variants by name, in their own order, the default always among them."""
    known = [variant.name for variant in VARIANTS]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InvalidInput(f"got the variants {unknown}; expected some of {', '.join(known)}")
    return tuple(v for v in VARIANTS if not names or v.name in names or v is VARIANTS[0])


def run(plan: Plan, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Train and evaluate what `plan.folder` does not hold yet; -> a row a variant and seed.

    Interrupted, the same plan goes on with the run that was cut off.
    """
    trunk = load_checkpoint(plan.trunk)
    rows = []
    runs = [(seed, variant) for seed in plan.seeds for variant in plan.variants]
    for number, (seed, variant) in enumerate(runs, 1):
        place = plan.folder / f"{variant.name}-seed{seed}"
        result = place / "result.json"
        identity = _identity(plan, trunk.sha256, variant, seed)
        if result.is_file():
            row = json.loads(result.read_text("utf-8"))
            if row["identity"] != identity:
                raise InvalidInput(
                    f"{result} was made by another plan (recipe, checkpoint or evaluation differ); "
                    "choose another folder, or remove it"
                )
        else:
            say(f"{variant.name}, seed {seed} ({number} of {len(runs)})")
            row = {**_run_one(plan, trunk.network, variant, seed, place, say), "identity": identity}
            _write(result, row)
        rows.append(row)
    return rows


def _write(path: Path, row: dict[str, Any]) -> None:
    write_atomically(path, lambda file: file.write(json.dumps(row).encode()))


def _run_one(
    plan: Plan,
    trunk: OISNetwork,
    variant: Variant,
    seed: int,
    place: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    recipe = plan.recipe.replace(seed=seed)
    network = with_trunk(trunk, variant, seed)
    options = RunOptions(
        place,
        resume=(place / "state.pt").is_file(),
        workers=1,
        threads=plan.threads,
        say=lambda text: say(f"  {text}"),
    )
    path = train(recipe, SceneSource(network.config, recipe), options, start=network)
    trained = load_checkpoint(path).network
    ious = robot_ious(
        trained, plan.objects, longest=plan.longest, clicks=plan.clicks, bf16=recipe.bf16
    )
    parameters = sum(p.numel() for p in trained.parameters())
    return {"variant": variant.name, "seed": seed, "parameters": parameters,
            "ious": np.round(ious, 5).tolist()}  # fmt: skip


def with_trunk(trunk: OISNetwork, variant: Variant, seed: int) -> OISNetwork:
    """A variant with `trunk`'s encoder and depth head; the rest initialised by `seed`.

    Raises `CheckpointError` when the variant's trunk has other shapes.
    """
    config: NetworkConfig = trunk.config.replace(**variant.changes)
    network = build(config, seed=seed)
    try:
        network.encoder.load_state_dict(trunk.encoder.state_dict())
        network.depth_head.load_state_dict(trunk.depth_head.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{variant.name} cannot take this checkpoint's encoder: {error}") \
            from None  # fmt: skip
    start_mask_head(network)
    return network


def _identity(plan: Plan, trunk: str, variant: Variant, seed: int) -> dict[str, Any]:
    """What the result depends on, as plain JSON."""
    described = {
        "trunk": trunk,
        "recipe": plan.recipe.replace(seed=seed).to_dict(),
        "changes": variant.changes,
        "objects": plan.objects,
        "clicks": plan.clicks,
        "longest": plan.longest,
    }
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain
