"""The models behind `ois_segment` keep its limits: clients can reach them without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import triton_to_np_dtype

from ois_client.contract.errors import EngineError, InvalidImage, InvalidInput
from ois_client.wire import Message, Tensors
from ois_export.tensorrt.profiles import DEFAULT_SHAPES, Shapes, input_shape
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.engines.manifest import Manifest, TensorSpec
from ois_runtime.serving.configuration import EngineLimits, ServingOptions, engine_limits
from support.server.calls import infer
from support.server.malformed_models import GOOD_INPUTS, Broken, decoder_inputs, postprocess_inputs
from support.tiny_engines import write_engines


def ask(server: EmbeddedServer, request: Broken) -> Tensors:
    tensors = {
        name: np.frombuffer(one.data, triton_to_np_dtype(one.datatype)).reshape(one.shape)
        for name, one in request.inputs.items()
    }
    return infer(server, Message(tensors, {}, ()), model=request.model)


@pytest.mark.parametrize("model", sorted(GOOD_INPUTS))
def test_what_the_fuzz_breaks_is_good_before(server: EmbeddedServer, model: str) -> None:
    assert ask(server, Broken("nothing", GOOD_INPUTS[model], model=model))


def test_as_many_objects_as_the_public_model_takes(server: EmbeddedServer) -> None:
    most = ServingOptions().max_objects
    for model, make in (("ois_decoder", decoder_inputs), ("ois_postprocess", logits)):
        assert ask(server, Broken("", make(most), model=model))
        with pytest.raises(InvalidInput, match=f"got {most + 1} objects.*expected 1 to {most}"):
            ask(server, Broken("", make(most + 1), model=model))


def logits(objects: int) -> dict[str, object]:
    return postprocess_inputs(objects, 112, 84)  # type: ignore[return-value]


def test_a_size_of_gigabytes_is_refused_before_a_mask_is_made(server: EmbeddedServer) -> None:
    inputs = postprocess_inputs(1, 40_000, 30_000)  # the logits of such an image are the same
    with pytest.raises(InvalidImage, match="40000x30000, 1200000000 pixels; the limit is 67108864"):
        ask(server, Broken("", inputs, model="ois_postprocess"))


def test_a_size_that_the_limit_admits_is_answered(server: EmbeddedServer) -> None:
    reply = ask(server, Broken("", postprocess_inputs(1, 2000, 1500), model="ois_postprocess"))
    assert reply["MASK_SIZES"].tolist() == [2000 * 1500 // 8]


# -- engines of any network --------------------------------------------------------------------


def arrays(specs: tuple[TensorSpec, ...], grid: tuple[int, int], objects: int) -> Tensors:
    """Empty in memory, of the shapes that an image of this patch grid has."""
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
def test_no_image_is_refused(longest: int, tmp_path: Path) -> None:
    manifest = Manifest.load(write_engines(tmp_path, longest=longest))
    checked = EngineLimits(SPECS, longest, 14, ServingOptions())
    for name in DEFAULT_SHAPES:
        shapes = Shapes.parse(name, manifest)
        for grid in (shapes.lowest, shapes.best, shapes.highest):
            checked.check(arrays(SPECS, grid, 32))
    checked.check(arrays(SPECS, (1, longest // 14), 1))
    with pytest.raises(InvalidInput, match="image of shape"):
        checked.check(arrays(SPECS, (longest // 14 + 1, longest // 14), 1))


def test_a_repository_without_its_manifest_says_so(tmp_path: Path) -> None:
    where = {"model_repository": str(tmp_path / "ois_encoder"), "model_version": "1"}
    with pytest.raises(EngineError, match="no readable manifest for ois_encoder"):
        engine_limits({**where, "model_name": "ois_encoder"})
