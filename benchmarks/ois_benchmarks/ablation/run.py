"""`ois bench ablation`: what each part of the network is worth, measured on procedural scenes.

Every variant is trained by the same short recipe from the same encoder and depth head, which
stay frozen; prompts, fusion and mask head start anew. A seed decides initial weights, scenes and
clicks, and the variants of a seed share them, so that differences are paired. The robot user
then clicks on objects of the validation scenes: defaults are chosen by this, and the scenes that
results are reported on stay unseen.

The paper's Table 4 switches off order, object, sparse and dense; its Table 5 adds depth as
features instead of order maps. The rest are choices that the paper leaves open.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ois_benchmarks.results import read_json
from ois_client.contract.errors import CheckpointError, InvalidInput
from ois_network.checkpoints.checkpoint import Checkpoint, load_checkpoint
from ois_network.config import FusionOrder, ImageUpdate, NetworkConfig
from ois_network.initialise import build, start_mask_head
from ois_network.network import OISNetwork
from ois_network.training.config import TrainConfig
from ois_network.training.data.batches import SceneSource
from ois_network.training.evaluate import robot_ious
from ois_network.training.memory import keep_freed_memory
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
    """What an ablation runs. `objects` validation objects get `clicks` robot clicks each, at
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


def run(plan: Plan, say: Callable[[str], None], jobs: int = 1) -> list[dict[str, Any]]:
    """Train and evaluate what `plan.folder` does not hold yet; -> a row a variant and seed.

    jobs: runs at once, each in a process of its own that prints its progress itself. Interrupted,
    the same plan goes on with the runs that were cut off.
    """
    trunk = load_checkpoint(plan.trunk)
    runs = [(variant, seed) for seed in plan.seeds for variant in plan.variants]
    found = {number: _read(plan, trunk.sha256, *one) for number, one in enumerate(runs)}
    missing = [runs[number] for number, row in found.items() if row is None]
    if jobs == 1 or len(missing) < 2:
        for number, (variant, seed) in enumerate(missing, 1):
            say(f"{variant.name}, seed {seed} ({number} of {len(missing)})")
            _run_one(plan, trunk, variant, seed, say)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(missing)), mp_context=context) as pool:
            begun = [pool.submit(_run_alone, plan, variant, seed) for variant, seed in missing]
            for number, future in enumerate(as_completed(begun), 1):
                say(f"{future.result()}: done ({number} of {len(begun)})")
    rows = [_read(plan, trunk.sha256, variant, seed) for variant, seed in runs]
    return [row for row in rows if row is not None]


_OTHER_PLAN = (
    "{path} was made by another plan (recipe, checkpoint or evaluation differ); choose another "
    "folder, or remove it"
)


def _place(plan: Plan, variant: Variant, seed: int) -> Path:
    return plan.folder / f"{variant.name}-seed{seed}"


def _read(plan: Plan, trunk: str, variant: Variant, seed: int) -> dict[str, Any] | None:
    """The row of a run that is finished."""
    path = _place(plan, variant, seed) / "result.json"
    if not path.is_file():
        return None
    row: dict[str, Any] = read_json(path)
    if row.get("identity") != _identity(plan, trunk, variant, seed):
        raise InvalidInput(_OTHER_PLAN.format(path=path))
    return row


def _run_alone(plan: Plan, variant: Variant, seed: int) -> str:
    """A run in a process of its own."""
    keep_freed_memory()
    name = f"{variant.name}, seed {seed}"
    trunk = load_checkpoint(plan.trunk)
    _run_one(plan, trunk, variant, seed, lambda text: print(f"{name}: {text}", file=sys.stderr))
    return name


def _run_one(
    plan: Plan, trunk: Checkpoint, variant: Variant, seed: int, say: Callable[[str], None]
) -> None:
    """Train, evaluate, write the row."""
    place = _place(plan, variant, seed)
    recipe = plan.recipe.replace(seed=seed)
    identity = _identity(plan, trunk.sha256, variant, seed)
    _note_identity(place, identity)
    network = with_trunk(trunk.network, variant, seed)
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
    row = row_of(variant, seed, trained, ious)
    _write(place / "result.json", {**row, "identity": identity})


def row_of(
    variant: Variant, seed: int, network: OISNetwork, ious: list[list[float]]
) -> dict[str, Any]:
    """ious: (objects, clicks), as `robot_ious` has them."""
    return {
        "variant": variant.name,
        "seed": seed,
        "parameters": sum(p.numel() for p in network.parameters()),
        "ious": np.round(ious, 5).tolist(),
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, lambda file: file.write(json.dumps(value).encode()))


def _note_identity(place: Path, identity: dict[str, Any]) -> None:
    """Written before a run begins: what was begun by another plan is not gone on with."""
    path = place / "plan.json"
    if path.is_file():
        if read_json(path) != identity:
            raise InvalidInput(_OTHER_PLAN.format(path=place))
        return
    place.mkdir(parents=True, exist_ok=True)
    _write(path, identity)


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
