"""The inputs that a quantiser measures the ranges of tensors on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ois_client.contract.clicks import Click, Prompts, fill_slots
from ois_client.contract.errors import InvalidInput
from ois_client.contract.images import Picture, load_image
from ois_export.region.rehearsal import rehearsals
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.pair import Arrays, EnginePair, HostPrompts
from ois_runtime.engines.pixels import preprocess

#: At most this many pictures of a folder, spread evenly over their names.
MOST_PICTURES = 32
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
#: The scenes for calibration; the gate sees others.
_FIRST_SCENE, _SCENES = 40, 6


def pictures(folder: Path | None = None) -> list[Picture]:
    """The pictures of a user's folder, or the sample photographs and a few procedural scenes.

    Raises `InvalidInput` if the folder has no picture.
    """
    if folder is not None:
        if not folder.is_dir():
            raise InvalidInput(f"got {folder} for calibration; expected a folder of pictures")
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
        if not found:
            raise InvalidInput(
                f"{folder} has no pictures ({', '.join(_SUFFIXES)}); expected 8 or more that look "
                "like the ones to segment"
            )
        few = min(MOST_PICTURES, len(found))
        return [load_image(found[n * len(found) // few]) for n in range(few)]
    return [load_image(each.pixels) for each in rehearsals(_FIRST_SCENE, _SCENES)]


def encoder_inputs(engines: EnginePair, given: Sequence[Picture]) -> Iterator[Arrays]:
    """The encoder's inputs for each picture."""
    manifest = engines.manifest
    for picture in given:
        image, geometry = preprocess(picture, manifest.fit)
        rows, columns = geometry.position_matrices(manifest.position_table)
        yield {"image": image, "pos_rows": rows, "pos_cols": columns}


def decoder_inputs(
    engines: EnginePair, given: Sequence[Picture], *, seed: int = 0
) -> Iterator[Arrays]:
    """The decoder's inputs for the requests of `requests`."""
    for state, prompts in requests(engines, given, seed=seed):
        yield {**state.arrays, **prompts.named()}


def requests(
    engines: EnginePair, given: Sequence[Picture], *, seed: int = 0
) -> Iterator[tuple[ImageState, HostPrompts]]:
    """Two requests on each picture: a click, then three clicks with the mask of the first."""
    generator = np.random.default_rng(seed)
    for picture in given:
        image, geometry = preprocess(picture, engines.manifest.fit)
        state = engines.encode(image, geometry)
        size = np.array([geometry.width - 1, geometry.height - 1])
        places = generator.random((3, 2)) * size
        clicks = [Click(float(x), float(y), n != 1) for n, (x, y) in enumerate(places)]
        coverage = np.zeros((1, *geometry.coverage_shape), dtype=np.uint8)
        for count in (1, 3):
            points, labels = fill_slots([clicks[:count]], geometry)
            prompts: HostPrompts = Prompts(points, labels, coverage, np.array([count > 1]))
            yield state, prompts
            _, coverage = engines.decode(state, prompts)
