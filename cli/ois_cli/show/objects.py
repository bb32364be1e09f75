"""The objects of a figure: an image with its true mask, or objects of a data set by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from ois_benchmarks.quality.datasets import Target

_LISTED = 5

ImageFile = Annotated[
    Path | None, typer.Option("--image", help="The photograph, with --mask.", show_default=False)
]
MaskFile = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        help="The true mask of the object: a picture of the photograph's size; not black = object.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Instead of --image and --mask: a data set of `ois bench quality`, for example scenes "
        "or davis:ROOT, with --object.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One object. pixels: (H, W, 3) uint8 RGB of its image."""

    name: str
    target: Target
    pixels: NDArray[np.uint8]


def find_subjects(
    image: Path | None, mask: Path | None, data: str | None, names: Sequence[str]
) -> list[Subject]:
    """The objects that the options name, in the order of `names`.

    Raises `InvalidInput` for another combination of options, an unknown name, and files that
    cannot be read or do not match.
    """
    from_files, from_data = image is not None or mask is not None, data is not None or bool(names)
    if from_files and not from_data and image is not None and mask is not None:
        return [_of_files(image, mask)]
    if from_data and not from_files and data is not None:
        return _of_dataset(data, names)
    given = {"--image": image, "--mask": mask, "--data": data, "--object": names or None}
    listed = ", ".join(name for name, value in given.items() if value is not None) or "neither"
    raise InvalidInput(
        f"got {listed}; expected --image FILE with --mask FILE, or --data SET with --object NAME"
    )


def _of_files(image: Path, mask: Path) -> Subject:
    from ois_benchmarks.quality.datasets import Target
    from ois_network.training.data.collections import Pair, read_pair

    pixels, true = read_pair(Pair(image.stem, image, mask))
    return Subject(image.stem, Target(image, true), pixels)


def _of_dataset(data: str, names: Sequence[str]) -> list[Subject]:
    from ois_benchmarks.quality.datasets import open_dataset
    from ois_client.contract.images import load_image

    found: dict[str, Target] = {}
    seen: list[str] = []
    dataset = open_dataset(data)
    for item in dataset.items():
        seen.append(item.name)
        if item.name in names:
            found[item.name] = item.load()
        if names and len(found) == len(set(names)):  # scenes are drawn one by one
            break
        if not names and len(seen) == _LISTED:
            break
    if not names or len(found) < len(set(names)):
        unknown = ", ".join(name for name in names if name not in found)
        raise InvalidInput(
            f"got {f'--object {unknown}' if unknown else 'no --object'}; expected names of "
            f"{dataset.label} ({dataset.count} objects): {', '.join(seen[:_LISTED])}, ... "
            "`ois bench quality` lists the worst ones"
        )
    return [
        Subject(name, found[name], load_image(found[name].image).pixels())
        for name in dict.fromkeys(names)
    ]
