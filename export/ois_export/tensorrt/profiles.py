"""Optimisation profiles: the shapes that a TensorRT engine is built and tuned for.

The longer side of every image has the network's size, so a patch grid is (rows, G) or (G,
columns). One profile for landscape and one for portrait cover exactly these shapes. The decoder
has both profiles once per range of N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ois_client.contract.clicks import SLOTS
from ois_client.contract.errors import EngineError, InvalidInput
from ois_runtime.engines.manifest import EngineFile, Manifest, TensorSpec

Shape = tuple[int, ...]
Grid = tuple[int, int]

#: In patches. Narrower images (1:25) are too rare to tune kernels for.
SMALLEST_SIDE = 3


@dataclass(frozen=True, slots=True)
class Objects:
    """A range of N, the objects refined in one call: `"1"` or `"2:8:8"` (min:opt:max)."""

    lowest: int
    best: int
    highest: int

    @classmethod
    def parse(cls, text: str) -> Objects:
        """Parse a range. Raises `InvalidInput` if the text is not a range."""
        parts = text.split(":")
        if len(parts) == 1:
            parts *= 3
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise InvalidInput(f"got the objects {text!r}; expected a number, or min:opt:max")
        lowest, best, highest = map(int, parts)
        if not 1 <= lowest <= best <= highest:
            raise InvalidInput(f"got the objects {text!r}; expected 1 <= min <= opt <= max")
        return cls(lowest, best, highest)


@dataclass(frozen=True, slots=True)
class Shapes:
    """A range of patch grids (rows, columns)."""

    name: str
    lowest: Grid
    best: Grid
    highest: Grid

    @classmethod
    def parse(cls, text: str, manifest: Manifest) -> Shapes:
        """Parse `"landscape"`, `"portrait"`, or one network size, `"1022x574"` (width x height).

        Raises `InvalidInput` if the text is something else, or a size that images cannot have.
        """
        largest, patch = manifest.longest // manifest.patch, manifest.patch
        # Tune for 16:9, the most common shape of photographs and screens.
        best = max(SMALLEST_SIDE, int(largest * 9 / 16 + 0.5))
        low = min(SMALLEST_SIDE, largest)
        if text == "landscape":
            return cls(text, (low, largest), (best, largest), (largest, largest))
        if text == "portrait":
            return cls(text, (largest, low), (largest, best), (largest, largest))
        width, _, height = text.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise InvalidInput(
                f"got the shape {text!r}; expected landscape, portrait or WIDTHxHEIGHT"
            )
        grid = int(height) // patch, int(width) // patch
        if max(grid) != largest or (grid[1] * patch, grid[0] * patch) != (int(width), int(height)):
            raise InvalidInput(
                f"got the shape {text}; expected multiples of {patch}, the longer "
                f"side {manifest.longest}"
            )
        return cls(text, grid, grid, grid)


DEFAULT_SHAPES = ("landscape", "portrait")
#: A server decodes at most 8 objects at once (`ServingOptions.decode_objects`), and in process more
#: run in parts. Memory grows with the largest number.
DEFAULT_OBJECTS = ("1", "2:8:8")


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile. inputs: name -> (min, opt, max) shape, for inputs whose shape is not fixed."""

    name: str
    inputs: dict[str, tuple[Shape, Shape, Shape]]


def encoder_profiles(manifest: Manifest, shapes: list[Shapes]) -> list[Profile]:
    """One profile per range of shapes."""
    return [_profile(manifest, manifest.encoder, each, Objects(1, 1, 1)) for each in shapes]


def decoder_profiles(
    manifest: Manifest, shapes: list[Shapes], objects: list[Objects]
) -> list[Profile]:
    """One profile per range of shapes and range of N."""
    return [
        _profile(manifest, manifest.decoder, shape, count) for shape in shapes for count in objects
    ]


def points(shapes: list[Shapes], objects: list[Objects]) -> list[tuple[Grid, int]]:
    """Minimum, optimum and maximum of every profile, without repeats, for the parity gate."""
    found: dict[tuple[Grid, int], None] = {}
    for shape in shapes:
        for count in objects:
            found[shape.lowest, count.lowest] = None
            found[shape.best, count.best] = None
            found[shape.highest, count.highest] = None
    return list(found)


def warm_up_requests(engine: EngineFile, profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    """One request per profile: the shape of each of the engine's inputs at the optimum.

    `repository.py` turns them into Triton's `model_warmup`.
    """
    return [
        {
            "name": profile.name,
            "inputs": {
                # A profile lists only the inputs whose shape is not fixed.
                spec.name: list(
                    profile.inputs[spec.name][1] if spec.name in profile.inputs else spec.shape
                )
                for spec in engine.inputs
            },
        }
        for profile in profiles
    ]


def _profile(manifest: Manifest, engine: EngineFile, shapes: Shapes, objects: Objects) -> Profile:
    places = (
        (shapes.lowest, objects.lowest),
        (shapes.best, objects.best),
        (shapes.highest, objects.highest),
    )
    inputs = {}
    for spec in engine.inputs:
        if all(isinstance(side, int) for side in spec.shape):
            continue
        lowest, best, highest = (
            input_shape(spec, grid, count, manifest.patch, manifest.coverage_scale)
            for grid, count in places
        )
        inputs[spec.name] = (lowest, best, highest)
    count = f"N {objects.lowest} to {objects.highest}"
    return Profile(f"{shapes.name}, {count}" if engine is manifest.decoder else shapes.name, inputs)


def input_shape(
    spec: TensorSpec, grid: Grid, objects: int, patch: int, coverage_scale: int = 1
) -> Shape:
    """Return the shape of an engine's input for one patch grid and N objects.

    The table in `ois_network/split.py` lists the tensors. Raises `EngineError` if the input is
    unknown.
    """
    rows, columns = grid
    pixels = rows * patch, columns * patch
    free: dict[str, Shape] = {
        "image": pixels,
        "pos_rows": (rows,),
        "pos_cols": (columns,),
        "depth": pixels,
        "grid_depth": grid,
        "features": (rows * columns,),
        "position": (rows * columns,),
        "keys_values": (rows * columns,),
        "points": (objects, SLOTS),
        "labels": (objects, SLOTS),
        "coverage": (objects, rows * coverage_scale, columns * coverage_scale),
        "has_previous": (objects,),
    }
    values = free.get(spec.name)
    if values is None:
        values = _map_shape(spec.name, grid, patch)
    sides = iter(values)
    shape = tuple(side if isinstance(side, int) else next(sides, 0) for side in spec.shape)
    if spec.name in ("points", "labels") and SLOTS not in shape:
        raise EngineError(
            f"the engines' {spec.name} has shape {spec.shape}; expected {SLOTS} slots"
        )
    return shape


def _map_shape(name: str, grid: Grid, patch: int) -> Shape:
    """A level of the mask head, tokens<l>, image<l> or lateral<l>, or details of a stride."""
    form, level = name[:-1], name[-1:]
    if name in ("depth_min", "depth_max"):
        return ()
    if form == "detail" and level.isdecimal() and int(level):
        return tuple(side * patch // int(level) for side in grid)
    if form == "tokens" and level.isdecimal():
        return grid
    if form not in ("image", "lateral") or level not in ("1", "2", "3", "4"):
        raise EngineError(
            f"got the engine input {name!r}, which this version does not have. "
            "Export the engines again"
        )
    if level == "4":  # a convolution of stride 2 with padding
        return tuple((side - 1) // 2 + 1 for side in grid)
    return tuple(side * {"1": 4, "2": 2, "3": 1}[level] for side in grid)
