"""The texts of `--data`: what to train on, alone or as a mixture.

    scenes                                procedural scenes
    lookalikes                            scenes whose objects only depth and edges tell apart
    distinct                              scenes whose objects all look different
    hqseg44k:ROOT, davis:ROOT             the paper's training data, DAVIS
    folders:IMAGES,MASKS                  images and masks with the same names
    coco:FILE[,IMAGES]                    a COCO file, such as `ois label` writes
    cutouts:FOLDER,PHOTOGRAPHS            cut-outs with alpha, pasted on photographs
    photo:FOLDER                          what `ois-photo` was trained on (`examples/photographs`)

Several texts are a mixture, and 3*TEXT is used three times as often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ois_client.contract.errors import InvalidInput
from ois_network.config import NetworkConfig
from ois_network.training.config import TrainConfig
from ois_network.training.data.coco import coco
from ois_network.training.data.collections import davis, folders, hqseg44k
from ois_network.training.data.mixture import MixtureSource
from ois_network.training.data.photographs import AnnotatedSource, CompositeSource
from ois_network.training.data.sources import PairSource, SceneSource, Source
from ois_network.training.scenes.scene import SceneKind

PHOTO = "photo:"
#: The labels in FOLDER of photo:FOLDER.
LABELS = "labels.json"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """description: for readers; equal texts on equal data have equal descriptions."""

    source: Source
    description: str


def open_training_data(
    texts: Sequence[str],
    network: NetworkConfig,
    config: TrainConfig,
    *,
    partial: bool = False,
    say: Callable[[str], None],
) -> TrainingData:
    """Open the data that `texts` name, see the top of this file.

    partial: accept data sets with missing folders. say: gets one line about each data set. Raises
    `InvalidInput` for an unknown text, missing files, and weights that are not positive numbers.
    """
    parts = []
    for text in [part for name in texts for part in _parts(name)]:
        weight, star, name = text.partition("*")
        try:
            share = float(weight) if star else 1.0
        except ValueError:
            raise InvalidInput(
                f"got the data {text!r}; expected a number before *, as in 3*coco:FILE"
            ) from None
        source, description = _open(name if star else text, network, config, partial=partial)
        say(description)
        parts.append((share, source, description))
    if len(parts) == 1:
        return TrainingData(*parts[0][1:])
    description = " + ".join(f"{share:g} * {name}" for share, _, name in parts)
    return TrainingData(MixtureSource([part[:2] for part in parts], config.seed), description)


def _parts(text: str) -> list[str]:
    """The sources of photo:FOLDER; other texts are one source."""
    if not text.startswith(PHOTO):
        return [text]
    folder = text[len(PHOTO) :]
    return [
        f"5*coco:{folder}/{LABELS},{folder}/photographs",
        f"3.5*cutouts:{folder}/cutouts,{folder}/photographs",
        "0.8*scenes",
    ]


def _open(
    text: str, network: NetworkConfig, config: TrainConfig, *, partial: bool
) -> tuple[Source, str]:
    kind, _, where = text.partition(":")
    if text in list(SceneKind):
        drawn = SceneKind(text)
        return SceneSource(network, config, drawn), drawn.label
    if kind == "hqseg44k" and where:
        collection = hqseg44k(where, partial=partial)
    elif kind == "davis" and where:
        collection = davis(where)
    elif kind == "folders" and where.count(",") == 1:
        collection = folders(*where.split(","))
    elif kind == "coco" and where:
        file, _, images = where.partition(",")
        collection = coco(file, images or None)
        return AnnotatedSource(collection, network, config), collection.report()
    elif kind == "cutouts" and where.count(",") == 1:
        cutouts, photographs = where.split(",")
        composites = CompositeSource(Path(cutouts), Path(photographs), network, config)
        return composites, (
            f"composites of {len(composites.cutouts)} cut-outs on {len(composites.files)} "
            "photographs"
        )
    else:
        raise InvalidInput(
            f"got the data {text!r}; expected {', '.join(SceneKind)}, hqseg44k:ROOT, davis:ROOT, "
            "folders:IMAGES,MASKS, coco:FILE[,IMAGES], cutouts:FOLDER,PHOTOGRAPHS or photo:FOLDER"
        )
    return PairSource(collection, network, config), collection.report()
