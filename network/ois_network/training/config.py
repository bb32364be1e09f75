"""A training recipe: one frozen dataclass, read from TOML and stored in every checkpoint.

Defaults that the paper (§4.1) does not give are SegNext's (`models/default/plainvit_base1024_*`
and `engine/trainer.py`), marked *SegNext*. The recipes `paper`, `tiny` and `ablation` are in
`recipes/`.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ois_client.contract.errors import InvalidInput
from ois_network.training.clicks.sampler import ClickConfig

if TYPE_CHECKING:
    from ois_network.config import NetworkConfig

#: Fields that change the reports of a run, not its result.
_ONLY_REPORTS = ("log_every", "checkpoint_minutes", "evaluate_every", "evaluate_scenes")

#: The parts of `OISNetwork` that can be frozen.
PARTS = ("encoder", "depth_head", "mask_head", "project", "sparse", "dense", "fusion",
         "depth_encoder", "inject", "previous_mask", "fine_prompts", "detail")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training at one network size. Set either `steps` or `epochs`."""

    longest: int = 1022
    images: int = 1  # per step and process
    # Objects per image, which is encoded once for all of them. 0: no clicks; only depth and
    # grouping are trained, which costs a third of a step with clicks.
    objects: int = 1
    steps: int = 0
    epochs: int = 0
    coarse: bool = False  # heads end before their last upsampling: a third of the work
    rounds: int = -1  # most rounds without gradient; -1: as `clicks.rounds`

    def __post_init__(self) -> None:
        wrong = min(self.longest, self.images) < 1 or self.objects < 0
        if wrong or (self.steps > 0) == (self.epochs > 0):
            raise InvalidInput(
                f"got the stage {dataclasses.asdict(self)}; expected positive longest and images, "
                "objects >= 0, and either steps or epochs"
            )


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """Adam with a step schedule (paper: Adam; lr and milestones *SegNext*), or others for tiny."""

    kind: str = "adam"  # adam | adamw | muon (matrices by Muon, the rest by AdamW)
    lr: float = 5e-5  # SegNext
    betas: tuple[float, float] = (0.9, 0.999)  # SegNext
    eps: float = 1e-8  # SegNext
    weight_decay: float = 0.0  # SegNext
    clip_norm: float = 0.0  # 0: off, SegNext
    schedule: str = "steps"  # steps | cosine
    # When lr is multiplied by `factor`, as shares of the run. SegNext: epochs 50 and 90 of 100.
    milestones: tuple[float, ...] = (0.5, 0.9)
    factor: float = 0.1
    warmup: int = 0  # steps of linear warm-up
    last_lr: float = 0.01  # cosine ends at this share of lr

    def __post_init__(self) -> None:
        if self.kind not in ("adam", "adamw", "muon") or self.schedule not in ("steps", "cosine"):
            raise InvalidInput(
                f"got optimiser {self.kind!r} with schedule {self.schedule!r}; expected adam, "
                "adamw or muon with steps or cosine"
            )


@dataclass(frozen=True, slots=True)
class LossConfig:
    alpha: float = 0.5  # SegNext
    gamma: float = 2.0  # SegNext
    iou_weight: float = 0.0  # ours: weight of the soft IoU loss, added to NFL
    click_weight: float = 0.0  # ours: weight of the error at the clicked pixels themselves
    depth_weight: float = 0.0  # ours: 0 if the depth head is frozen
    depth: str = "l1"  # l1 | ssi
    grouping_weight: float = 0.0  # ours: patches of one object get similar features
    gradient_rounds: int = 1  # how many of the last rounds have a gradient (SegNext); 0: all

    def __post_init__(self) -> None:
        if self.depth not in ("l1", "ssi"):
            raise InvalidInput(f"got loss.depth={self.depth!r}; expected 'l1' or 'ssi'")
        if self.gradient_rounds < 0:
            raise InvalidInput(f"got loss.gradient_rounds={self.gradient_rounds}; expected >= 0")


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """SegNext's augmentations (`plainvit_base1024_hqseg44k`)."""

    on: bool = True
    scale: tuple[float, float] = (0.75, 1.40)  # range of factors for the image's sides
    flip: bool = True
    rotate90: bool = True
    shift: float = 0.03
    rotate: float = 3.0  # degrees
    shift_rotate_share: float = 0.75
    brightness: float = 0.25
    contrast: tuple[float, float] = (-0.15, 0.40)
    brightness_contrast_share: float = 0.75
    rgb_shift: float = 10.0
    rgb_shift_share: float = 0.75


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that determines the result, except the data."""

    network: str = "vitb"
    # Switches of the network that differ from the preset's or the initial weights', by field of
    # `NetworkConfig`: the paper's ablations (`ois_network.variants.SWITCHES`).
    network_changes: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    frozen: tuple[str, ...] = ("encoder", "depth_head")  # paper §4.1
    stages: tuple[Stage, ...] = (Stage(epochs=15),)  # paper §4.1: 15 epochs, 1024
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    clicks: ClickConfig = field(default_factory=ClickConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    accumulate: int = 1  # batches per step
    bf16: bool = True
    ema: float = 0.0  # decay of the averaged weights; 0: off
    # Masks that cover less than this share of the image are skipped. SegNext: 1000 pixels at
    # 1024 x 1024. (SegNext also keeps one in twenty images without an object; we skip them all.)
    smallest_target: float = 0.001
    log_every: int = 20
    checkpoint_minutes: float = 10.0
    evaluate_every: int = 0  # steps; 0: never
    evaluate_scenes: int = 32

    def __post_init__(self) -> None:
        self.shape()  # raises for an unknown network and for impossible changes
        unknown = sorted(set(self.frozen) - set(PARTS))
        if unknown:
            raise InvalidInput(f"got frozen={unknown}; expected some of {', '.join(PARTS)}")
        dense = self.loss.depth_weight or self.loss.grouping_weight
        if not dense and not all(stage.objects for stage in self.stages):
            raise InvalidInput(
                "got a stage with objects=0 and neither loss.depth_weight nor "
                "loss.grouping_weight; such a stage learns from these losses alone, so set one"
            )
        if not self.stages or self.accumulate < 1 or not 0 <= self.ema < 1:
            raise InvalidInput(
                f"got {len(self.stages)} stages, accumulate={self.accumulate}, ema={self.ema}; "
                "expected at least one stage, accumulate >= 1 and 0 <= ema < 1"
            )

    def shape(self) -> NetworkConfig:
        """The network's preset with `network_changes`.

        Raises `CheckpointError` for an unknown preset, `InvalidInput` for a wrong change.
        """
        from ois_network.config import preset
        from ois_network.variants import changed

        return changed(preset(self.network), self.network_changes)

    def replace(self, **changes: Any) -> TrainConfig:
        return dataclasses.replace(self, **changes)

    def differences(self, other: TrainConfig) -> list[str]:
        """The fields that change the result and differ, as "field: here, there"."""
        mine, theirs = _flat(self.to_dict()), _flat(other.to_dict())
        return [
            f"{name}: {mine.get(name)}, {theirs.get(name)}"
            for name in sorted({*mine, *theirs})
            if name not in _ONLY_REPORTS and mine.get(name) != theirs.get(name)
        ]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON and TOML types."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`. Raises `InvalidInput` for unknown fields and wrong types."""
        return _build(cls, data, "")


def load_recipe(name_or_path: str | Path) -> TrainConfig:
    """Read a shipped recipe by its name (such as `paper` or `tiny`), or a TOML file.

    Raises `InvalidInput` if there is no such recipe or it is not valid.
    """
    text = str(name_or_path)
    shipped = resources.files("ois_network.training") / "recipes"
    names = sorted(item.name[:-5] for item in shipped.iterdir() if item.name.endswith(".toml"))
    try:
        if text in names:
            source = (shipped / f"{text}.toml").read_text(encoding="utf-8")
        else:
            source = Path(text).read_text(encoding="utf-8")
        return TrainConfig.from_dict(tomllib.loads(source))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"the recipe {text} is not TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"got the recipe {text!r}: {error}; expected {', '.join(names)} or a TOML file"
        ) from None


def plan_stages(
    config: TrainConfig, epoch_length: int, world: int
) -> tuple[list[tuple[int, Stage]], int]:
    """(first step, stage) of each stage of the recipe, and the total number of steps.

    epoch_length: images per epoch, 0 for endless data. world: the number of processes. Raises
    `InvalidInput` if the recipe counts epochs and the data is endless.
    """
    if not epoch_length and any(stage.epochs for stage in config.stages):
        raise InvalidInput(
            "the recipe counts epochs, but procedural scenes are endless; name a data set "
            "(--data hqseg44k:ROOT, davis:ROOT or folders:IMAGES,MASKS), or give the stages steps"
        )
    stages, first = [], 0
    for stage in config.stages:
        steps = stage.steps
        if not steps:
            images = stage.images * config.accumulate * world
            steps = math.ceil(stage.epochs * epoch_length / images)
        stages.append((first, stage))
        first += steps
    return stages, first


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _build(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise InvalidInput(f"the recipe's {where or 'top level'} is {data!r}; expected a table")
    known = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise InvalidInput(
            f"the recipe has unknown fields {[where + name for name in unknown]}; "
            f"known are {', '.join(known)}"
        )
    defaults = kind() if kind is not Stage else Stage(steps=1)
    values: dict[str, Any] = {}
    for name, value in data.items():
        default = getattr(defaults, name)
        try:
            if name == "stages":
                values[name] = tuple(_build(Stage, item, "stages.") for item in value)
            elif isinstance(default, dict):
                if not isinstance(value, dict):
                    raise TypeError("expected a table")
                values[name] = dict(value)
            elif dataclasses.is_dataclass(default):
                values[name] = _build(type(default), value, f"{where}{name}.")
            elif isinstance(default, tuple):
                values[name] = tuple(type(default[0])(item) for item in value)
            elif isinstance(default, bool) != isinstance(value, bool):
                raise TypeError(f"expected {type(default).__name__}")
            else:
                values[name] = type(default)(value)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the recipe's {where}{name} is {value!r}: {error}") from None
    return kind(**values)
