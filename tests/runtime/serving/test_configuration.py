"""Options of the serving models, and the limits that the engine models check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.wire import Tensors
from ois_export.tensorrt.profiles import DEFAULT_SHAPES, Shapes, input_shape
from ois_runtime.engines.manifest import Manifest, TensorSpec
from ois_runtime.serving.configuration import EngineLimits, ServingOptions, engine_limits
from support.tiny_engines import write_engines


def test_options_come_from_the_config_and_the_environment() -> None:
    options = ServingOptions.read(
        {"max_objects": "5", "cache_bytes": "10"}, {"OIS_CACHE_BYTES": "77", "OIS_OTHER": "x"}
    )
    assert (options.max_objects, options.cache_bytes, options.queue) == (5, 77, 64)
    assert ServingOptions.read({}, {"OIS_CACHE_TTL_S": "inf"}).cache_ttl_s == float("inf")
    assert ServingOptions.read({}, {"OIS_CACHE_SALT": "token"}).cache_salt == "token"
    with pytest.raises(InvalidInput, match="'tokens'; expected token"):
        ServingOptions.read({}, {"OIS_CACHE_SALT": "tokens"})


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"max_objets": "5"}, "max_objets"),
        ({"max_objects": "many"}, "'many'"),
        ({"max_objects": "0"}, "more than 0"),
        ({"cache_ttl_s": "nan"}, "more than 0"),
        ({"decoder": "gpu"}, "'gpu'; expected auto, process, triton"),
        ({"cache_salt": "token"}, "set OIS_CACHE_SALT"),
    ],
)
def test_wrong_options_are_refused(parameters: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        ServingOptions.read(parameters, {})


# -- limits of the engine models ----------------------------------------------------------------


def arrays(specs: tuple[TensorSpec, ...], grid: tuple[int, int], objects: int) -> Tensors:
    """Arrays of the shapes that an image with this patch grid (rows, columns) produces."""
    return {
        spec.name: np.broadcast_to(np.uint8(0), input_shape(spec, grid, objects, 14))
        for spec in specs
    }


SPECS = (
    TensorSpec("image", "uint8", ("h", "w", 3)),
    TensorSpec("pos_rows", "float32", ("gh", 37)),
    TensorSpec("features", "float32", (1, "tokens", 384)),
    TensorSpec("lateral1", "float32", (1, 32, "h1", "w1")),
    TensorSpec("points", "float32", ("n", 48, 2)),
    TensorSpec("coverage", "uint8", ("n", "gh", "gw")),
)


@pytest.mark.parametrize("longest", [56, 448, 1022])
def test_the_limits_admit_every_image(longest: int, tmp_path: Path) -> None:
    manifest = Manifest.load(write_engines(tmp_path, longest=longest))
    checked = EngineLimits(SPECS, longest, 14, ServingOptions())
    for name in DEFAULT_SHAPES:
        shapes = Shapes.parse(name, manifest)
        for grid in (shapes.lowest, shapes.best, shapes.highest):
            checked.check(arrays(SPECS, grid, 32))
    checked.check(arrays(SPECS, (1, longest // 14), 1))
    with pytest.raises(InvalidInput, match="image of shape"):
        checked.check(arrays(SPECS, (longest // 14 + 1, longest // 14), 1))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pos_rows", (32, 37)),
        ("image", (15, 14, 3)),
        ("coverage", (1, 1, 3)),
    ],
)
def test_inputs_of_different_patch_grids_are_refused(name: str, shape: tuple[int, ...]) -> None:
    """Position tables decided alone how large a grid was computed for an image of one patch."""
    limits = EngineLimits(SPECS, 448, 14, ServingOptions())
    limits.check(arrays(SPECS, (1, 1), 1))
    wrong = np.broadcast_to(np.uint8(0), shape)
    with pytest.raises(InvalidInput, match=f"got {name} of shape"):
        limits.check({**arrays(SPECS, (1, 1), 1), name: wrong})


def test_a_repository_without_a_manifest_is_refused(tmp_path: Path) -> None:
    where = {"model_repository": str(tmp_path / "ois_encoder"), "model_version": "1"}
    with pytest.raises(EngineError, match="no readable manifest for ois_encoder"):
        engine_limits({**where, "model_name": "ois_encoder"})
