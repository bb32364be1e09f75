"""Reads Triton's requests and builds its responses, for every Python model of the repository."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from ois_client.contract.errors import OISError, ServerOverloaded
from ois_client.wire import Tensors, error_text, triton_code


def read_inputs(request: Any) -> Tensors:
    """The input tensors by name. The arrays are views of the request's memory."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def read_parameters(request: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
    return parameters


def response(request: Any, outputs: Tensors) -> Any:
    """A response with those of `outputs` that the request asks for."""
    wanted = set(request.requested_output_names())
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, array) for name, array in outputs.items() if name in wanted]
    )


def make_shared_memory_private() -> None:
    """Let only this user read the shared memory of the model's process. Call it in `initialize`.

    It holds pictures and features. Triton makes it readable for every user of the machine, whatever
    the umask; by now everyone who needs it has it open.
    """
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        name = line.split(maxsplit=5)[-1]
        if name.startswith("/dev/shm/"):
            try:
                Path(name).chmod(0o600)
            except OSError as error:
                pb_utils.Logger.log_warn(f"ois: {name} stays readable for other users: {error}")


def cancelled_response() -> Any:
    error = pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
    return pb_utils.InferenceResponse(error=error)


def error_response(error: BaseException) -> Any:
    """A response with an `OISError`. Any other exception is logged and hidden from the client."""
    if isinstance(error, MemoryError):
        error = ServerOverloaded("the server is out of memory; try again with fewer objects")
    if not isinstance(error, OISError):
        trace = "".join(traceback.format_exception(error))
        pb_utils.Logger.log_error(f"ois: unexpected error in a request:\n{trace}")
    code = getattr(pb_utils.TritonError, triton_code(error))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(error_text(error), code))


def initialization_error(error: OISError) -> Any:
    """The exception with which a model's `initialize` fails: the message without a traceback."""
    return pb_utils.TritonModelException(str(error))
