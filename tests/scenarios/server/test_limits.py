"""The other models check the limits of `ois_segment`.

Clients of `ois serve` cannot reach them. Clients of another Triton can, over gRPC through nginx.
"""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.utils import triton_to_np_dtype

from ois_client.contract.errors import InvalidImage, InvalidInput
from ois_client.wire import Message, Tensors
from ois_runtime.embedded.server import EmbeddedServer
from ois_runtime.serving.configuration import ServingOptions
from support.server.calls import infer
from support.server.malformed_models import (
    GOOD_INPUTS,
    RawRequest,
    decoder_inputs,
    postprocess_inputs,
)


def ask(server: EmbeddedServer, request: RawRequest) -> Tensors:
    tensors = {
        name: np.frombuffer(one.data, triton_to_np_dtype(one.datatype)).reshape(one.shape)
        for name, one in request.inputs.items()
    }
    return infer(server, Message(tensors, {}, ()), model=request.model)


@pytest.mark.parametrize("model", sorted(GOOD_INPUTS))
def test_the_fuzz_starts_from_good_requests(server: EmbeddedServer, model: str) -> None:
    assert ask(server, RawRequest("nothing", GOOD_INPUTS[model], model=model))


def test_as_many_objects_as_ois_segment_takes(server: EmbeddedServer) -> None:
    most = ServingOptions().max_objects
    for model, make in (("ois_decoder", decoder_inputs), ("ois_postprocess", logits)):
        assert ask(server, RawRequest("", make(most), model=model))
        with pytest.raises(InvalidInput, match=f"got {most + 1} objects.*expected 1 to {most}"):
            ask(server, RawRequest("", make(most + 1), model=model))


def logits(objects: int) -> dict[str, object]:
    return postprocess_inputs(objects, 112, 84)  # type: ignore[return-value]


def test_a_size_of_gigabytes_is_refused_before_a_mask_is_made(server: EmbeddedServer) -> None:
    inputs = postprocess_inputs(1, 40_000, 30_000)  # such an image has logits of the same size
    with pytest.raises(InvalidImage, match="40000x30000, 1200000000 pixels; the limit is 67108864"):
        ask(server, RawRequest("", inputs, model="ois_postprocess"))


def test_a_size_that_the_limit_admits_is_answered(server: EmbeddedServer) -> None:
    reply = ask(server, RawRequest("", postprocess_inputs(1, 2000, 1500), model="ois_postprocess"))
    assert reply["MASK_SIZES"].tolist() == [2000 * 1500 // 8]
