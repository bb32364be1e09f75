"""What an ablation's networks are evaluated on: validation scenes, or a data set of the user."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from ois_benchmarks.quality.datasets import Dataset, open_dataset
from ois_client.contract.errors import InvalidInput
from ois_client.contract.images import load_image
from ois_network.network import OISNetwork
from ois_network.training.data.collections import SkippedPair
from ois_network.training.evaluate import robot_ious, robot_session, torch_predictor
from ois_network.training.scenes.scene import SceneKind

#: Validation scenes. (`ois bench quality` uses the test scenes under these names.)
SCENES = SceneKind.MIXED.value
_SCENES = 60


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Objects that the robot user clicks on.

    label: for readers. dataset: None for the first `count` validation scenes of `kind`.
    """

    label: str
    count: int
    dataset: Dataset | None = None
    kind: SceneKind = SceneKind.MIXED

    def identity(self) -> dict[str, Any]:
        """JSON-ready; equal if the objects are."""
        if self.dataset is None:
            mixed = self.kind is SceneKind.MIXED
            return {"objects": self.count, **({} if mixed else {"data": self.label})}
        return {"objects": self.count, "data": self.dataset.describe()}

    def ious(
        self, network: OISNetwork, *, longest: int, clicks: int, bf16: bool
    ) -> list[list[float]]:
        """IoU after each of `clicks` clicks, one list per object that could be read.

        longest: longest side in network pixels. Raises `InvalidInput` if there is no such object.
        """
        if self.dataset is None:
            return robot_ious(
                network, self.count, longest=longest, clicks=clicks, bf16=bf16, kind=self.kind
            )
        ious = []
        for item in self.dataset.items():
            try:
                target = item.load()
            except SkippedPair:
                continue
            pixels = load_image(target.image).pixels()
            predict = torch_predictor(network, pixels, longest, bf16=bf16)
            ious.append(robot_session(target.mask, predict, clicks))
        if not ious:
            raise InvalidInput(
                f"no object of {self.label} could be read; expected images with masks that are "
                "not empty. `ois bench quality` lists the reasons"
            )
        return ious


@cache
def evaluation(data: str, objects: int | None) -> Evaluation:
    """The evaluation for a text of `--data`, as `open_dataset` takes; scenes are validation ones.

    objects: at most this many. Raises `InvalidInput` for an unknown data set or missing files.
    """
    kind, _, count = data.partition(":")
    if kind in list(SceneKind) and (not count or count.isdecimal()):
        wanted = int(count) if count else objects or _SCENES
        wanted = min(wanted, objects or wanted)
        if not wanted:
            raise InvalidInput(f"got the data {data!r}; expected at least one scene")
        drawn = SceneKind(kind)
        return Evaluation(drawn.label, wanted, kind=drawn)
    dataset = open_dataset(data, limit=objects)
    return Evaluation(dataset.label, dataset.count, dataset)
