"""`ois bench ablation`: how much each part of the network contributes.

Every variant is trained with the same short recipe from the same encoder and depth head, which
stay frozen; prompts, fusion and mask head are initialised anew, or (`Start.TRAINED`) come from the
checkpoint as well, as far as the variant has them. The seed decides initial weights, training data
and clicks. Variants with the same seed share them, so that differences are paired. Then the robot
user clicks on the objects of a data set, by default of the validation scenes. Defaults are chosen
by these results, so the test scenes on which quality is reported are not used here.

The paper's Table 4 removes the order-aware attention, the object-aware attention, the sparse and
the dense prompts. Its Table 5 uses depth as features, by an extra encoder, instead of order-aware
attention. The other variants remove less than a module, or are choices that the paper leaves open.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from ois_benchmarks.ablation.evaluation import SCENES, evaluation
from ois_benchmarks.results import read_json
from ois_client.contract.errors import CheckpointError, InvalidInput
from ois_client.contract.files import LineFile, write_file
from ois_network.checkpoints.checkpoint import Checkpoint, load_checkpoint
from ois_network.config import FusionOrder, ImageUpdate, NetworkConfig
from ois_network.initialise import altered, build, start_mask_head
from ois_network.network import OISNetwork
from ois_network.training.config import TrainConfig
from ois_network.training.data.texts import open_training_data
from ois_network.training.processes import keep_freed_memory
from ois_network.training.trainer import RunOptions, train


@dataclass(frozen=True, slots=True)
class NetworkVariant:
    """A network that differs from the default by `changes` to its config.

    row: the row of the paper's Table 4 or 5 that it stands for, as printed; "" for none.
    """

    name: str
    label: str
    changes: dict[str, Any] = field(default_factory=dict)
    row: str = ""


#: The others are compared with the first.
VARIANTS = (
    NetworkVariant("default", "default", row="full"),
    NetworkVariant(
        "no-order", "without order-aware attention", {"order_attention": False}, "w/o order"
    ),
    NetworkVariant(
        "no-object", "without object-aware attention", {"object_attention": False}, "w/o object"
    ),
    NetworkVariant("no-sparse", "without sparse prompts", {"sparse": False}, "w/o sparse"),
    NetworkVariant("no-dense", "without dense prompts", {"dense": False}, "w/o dense"),
    NetworkVariant(
        "depth-encoder",
        "an encoder of depth instead of order-aware attention",
        {"order_attention": False, "depth_encoder": True, "depth_blocks": 4},
        "DepthEncoder",
    ),
    NetworkVariant("no-order-maps", "without order maps; the attention stays", {"order": False}),
    NetworkVariant(
        "no-object-masks", "without object masks; the attention stays", {"object": False}
    ),
    NetworkVariant("levels-4", "prompt enters level 4", {"fused_levels": (4,)}),
    NetworkVariant("levels-1234", "prompt enters levels 1 to 4", {"fused_levels": (1, 2, 3, 4)}),
    NetworkVariant(
        "object-first", "object before order", {"fusion_order": FusionOrder.OBJECT_FIRST}
    ),
    NetworkVariant(
        "each-block", "image update in each block", {"image_update": ImageUpdate.EACH_BLOCK}
    ),
)


class Start(StrEnum):
    """Where prompts, fusion and mask head of a variant come from."""

    UNTRAINED = "untrained"  # initial values
    TRAINED = "trained"  # the checkpoint, as far as the variant has them


@dataclass(frozen=True, slots=True)
class AblationPlan:
    """What an ablation runs.

    trunk: checkpoint whose encoder and depth head are used. folder: of the runs. start: what else
    comes from it. train_data: what to train on, texts as in `open_training_data`. data: what to
    click on, see `evaluation`. objects: at most this many; None for 60 scenes, or for all of
    another data set. clicks: robot clicks per object. longest: longest side in network pixels when
    clicking. threads: per run; 0 for PyTorch's default.
    """

    trunk: Path
    folder: Path
    recipe: TrainConfig
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: tuple[NetworkVariant, ...] = VARIANTS
    start: Start = Start.UNTRAINED
    train_data: tuple[str, ...] = (SCENES,)
    data: str = SCENES
    objects: int | None = None
    clicks: int = 20
    longest: int = 336
    threads: int = 0


def pick(names: Sequence[str]) -> tuple[NetworkVariant, ...]:
    """Variants by name, in the order of `VARIANTS`, always with the default; all for no names.

    Raises `InvalidInput` for an unknown name.
    """
    known = [variant.name for variant in VARIANTS]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InvalidInput(f"got the variants {unknown}; expected some of {', '.join(known)}")
    return tuple(v for v in VARIANTS if not names or v.name in names or v is VARIANTS[0])


def with_steps(recipe: TrainConfig, steps: int | None) -> TrainConfig:
    """The recipe with another number of steps; None keeps its own.

    Raises `InvalidInput` if the recipe has several stages.
    """
    if steps is None:
        return recipe
    if len(recipe.stages) != 1:
        raise InvalidInput(
            f"got {steps} steps for a recipe of {len(recipe.stages)} stages; expected one stage"
        )
    return recipe.replace(stages=(replace(recipe.stages[0], steps=steps, epochs=0),))


def run(plan: AblationPlan, say: Callable[[str], None], jobs: int = 1) -> list[dict[str, Any]]:
    """Train and evaluate every run that `plan.folder` does not hold yet.

    Returns one row per variant and seed. jobs: runs at once, each in its own process, which prints
    its progress; they save and end if this process is killed. After an interruption the same plan
    resumes the unfinished runs. A plan that only clicks on other objects evaluates the networks in
    the folder without training them again. Raises `InvalidInput` if the folder holds runs that
    were trained in another way, and `OutputError` if another process trains one of them.
    """
    if plan.recipe.network_changes:
        raise InvalidInput(
            f"got a recipe with network_changes={plan.recipe.network_changes}, which would change "
            "every variant; expected none: choose variants instead"
        )
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
        workers = min(jobs, len(missing))
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=_stop_with_parent
        ) as pool:
            begun = [pool.submit(_run_alone, plan, variant, seed) for variant, seed in missing]
            for number, future in enumerate(as_completed(begun), 1):
                say(f"{future.result()}: done ({number} of {len(begun)})")
    rows = [_read(plan, trunk.sha256, variant, seed) for variant, seed in runs]
    return [row for row in rows if row is not None]


#: In the folder of a run: what it was trained on, and a file that the process has open.
_PLAN, _LOCK = "plan.json", "lock"

_OTHER_PLAN = (
    "{path} was trained by another plan (recipe, checkpoint or data differ); choose another "
    "folder, or remove it"
)


def _place(plan: AblationPlan, variant: NetworkVariant, seed: int) -> Path:
    return plan.folder / f"{variant.name}-seed{seed}"


def _read(
    plan: AblationPlan, trunk: str, variant: NetworkVariant, seed: int
) -> dict[str, Any] | None:
    """The row of a finished run; None if it is not finished."""
    place = _place(plan, variant, seed)
    if not (place / _PLAN).is_file():
        return None
    _check_identity(place, _training(plan, trunk, variant, seed))
    path = place / _row_file(plan)
    return read_json(path) if path.is_file() else None


def _row_file(plan: AblationPlan) -> str:
    """The name of the row for what `plan` clicks on."""
    clicked = json.dumps(_clicking(plan), sort_keys=True)
    return f"clicked-{hashlib.sha256(clicked.encode()).hexdigest()[:16]}.json"


def _stop_with_parent() -> None:
    """In a worker: as soon as the parent is gone, stop as SIGTERM does. Training then saves."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _run_alone(plan: AblationPlan, variant: NetworkVariant, seed: int) -> str:
    """One run, in its own process. Returns its name."""
    keep_freed_memory()
    name = f"{variant.name}, seed {seed}"
    trunk = load_checkpoint(plan.trunk)
    try:
        _run_one(plan, trunk, variant, seed, lambda text: print(f"{name}: {text}", file=sys.stderr))
    except KeyboardInterrupt:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)  # or the pool would begin the next run
        raise
    return name


def _run_one(
    plan: AblationPlan,
    trunk: Checkpoint,
    variant: NetworkVariant,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Train, evaluate, and write the row."""
    place = _place(plan, variant, seed)
    _note_identity(place, _training(plan, trunk.sha256, variant, seed))
    recipe = plan.recipe.replace(seed=seed)
    with contextlib.closing(LineFile(place / _LOCK)):
        network = started(trunk.network, variant, seed, plan.start)
        options = RunOptions(
            place,
            resume=(place / "state.pt").is_file(),
            workers=1,
            threads=plan.threads,
            say=lambda text: say(f"  {text}"),
        )
        source = open_training_data(plan.train_data, network.config, recipe, say=options.say).source
        path = train(recipe, source, options, start=network)
        trained = load_checkpoint(path).network
        chosen = evaluation(plan.data, plan.objects)
        ious = chosen.ious(trained, longest=plan.longest, clicks=plan.clicks, bf16=recipe.bf16)
        row = row_of(variant, seed, trained, ious)
        _write(place / _row_file(plan), row)


def row_of(
    variant: NetworkVariant, seed: int, network: OISNetwork, ious: list[list[float]]
) -> dict[str, Any]:
    """The row of one run. ious: (objects, clicks), from `robot_ious`."""
    return {
        "variant": variant.name,
        "seed": seed,
        "parameters": sum(p.numel() for p in network.parameters()),
        "ious": np.round(ious, 5).tolist(),
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    write_file(path, json.dumps(value).encode())


def _note_identity(place: Path, identity: dict[str, Any]) -> None:
    """Write what the run depends on before it begins, so that another plan cannot resume it."""
    path = place / _PLAN
    if path.is_file():
        _check_identity(place, identity)
        return
    place.mkdir(parents=True, exist_ok=True)
    _write(path, identity)


def _check_identity(place: Path, identity: dict[str, Any]) -> None:
    if read_json(place / _PLAN) != identity:
        raise InvalidInput(_OTHER_PLAN.format(path=place))


def started(
    trunk: OISNetwork, variant: NetworkVariant, seed: int, start: Start = Start.UNTRAINED
) -> OISNetwork:
    """The variant before its training. Raises as `with_trunk`."""
    if start is Start.UNTRAINED:
        return with_trunk(trunk, variant, seed)
    return altered(trunk, variant.changes, seed=seed).network


def with_trunk(trunk: OISNetwork, variant: NetworkVariant, seed: int) -> OISNetwork:
    """A variant with the encoder and depth head of `trunk`; the rest is initialised with `seed`.

    Raises `CheckpointError` if the shapes of the variant's encoder or depth head differ.
    """
    config: NetworkConfig = trunk.config.replace(**variant.changes)
    network = build(config, seed=seed)
    # A removed part draws no random numbers, so the parts built after it would start elsewhere.
    # All variants of a seed start from the same values.
    whole = build(trunk.config, seed=seed).state_dict()
    own = network.state_dict()
    shared = {k: v for k, v in whole.items() if k in own and v.shape == own[k].shape}
    network.load_state_dict(own | shared)
    try:
        network.encoder.load_state_dict(trunk.encoder.state_dict())
        network.depth_head.load_state_dict(trunk.depth_head.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{variant.name} cannot use this checkpoint's encoder: {error}") \
            from None  # fmt: skip
    start_mask_head(network)
    return network


def _clicking(plan: AblationPlan) -> dict[str, Any]:
    """What a network is evaluated on, JSON-ready."""
    chosen = evaluation(plan.data, plan.objects)
    return {**chosen.identity(), "clicks": plan.clicks, "longest": plan.longest}


def _training(plan: AblationPlan, trunk: str, variant: NetworkVariant, seed: int) -> dict[str, Any]:
    """Everything that the trained network depends on, as plain JSON."""
    described = {
        "trunk": trunk,
        "recipe": plan.recipe.replace(seed=seed).to_dict(),
        "changes": variant.changes,
    }
    if plan.start is not Start.UNTRAINED:
        described["start"] = plan.start
    if plan.train_data != (SCENES,):
        described["train_data"] = plan.train_data
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain
