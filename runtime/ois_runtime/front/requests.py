"""Which infer requests may reach Triton: names, types, sizes and parameters of every tensor.

A request is read, checked and written again, so that Triton never parses what a client wrote: it
sees no unknown field, no name twice and no number that JSON readers understand differently.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ois_client.contract.errors import InvalidInput
from ois_client.wire import INPUTS, MODEL, ONESHOT_MODEL, OUTPUTS
from ois_runtime.edge import rules

#: Names of our parameters. Others would mean something to Triton, or to a server that passes
#: tokens on as parameters.
_PARAMETER = re.compile(r"ois_[a-z_]{1,60}")
_REGION = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_MAX_ID = 128
_MAX_PARAMETERS = 16
_MAX_TEXT = 1024
_MAX_SIDES = 8
#: The deepest JSON of ours: {"inputs": [{"data": [[[1.5, 2.5]]]}]}.
_MAX_DEPTH = 8
_BINARY, _BINARY_OUTPUT = "binary_data_size", "binary_data_output"
_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
_TRITONS = {"id", "inputs", "outputs", "parameters"}

Json = dict[str, Any]


def check_model(name: str, version: str) -> None:
    """Raises `InvalidInput` unless clients may use this model."""
    if name not in (MODEL, ONESHOT_MODEL):
        raise InvalidInput(
            f"got the model {name[:80]!r}; expected {MODEL} or {ONESHOT_MODEL}, the models that "
            "are open to clients"
        )
    if version not in ("", "1"):
        raise InvalidInput(f"got the version {version[:80]!r} of {name}; expected 1 or none")


# -- gRPC -----------------------------------------------------------------------------------------


def checked_message(request: Any, *, shared_memory: bool) -> Any:
    """The `ModelInferRequest` to pass on. shared_memory: whether inputs may be in shared memory.

    Changes `request`. Raises `InvalidInput` if it is none of ours.
    """
    check_model(request.model_name, request.model_version)
    _check_id(request.id)
    contents = list(request.raw_input_contents)
    given = iter(contents)
    tensors = []
    for tensor in request.inputs:
        if tensor.HasField("contents"):
            raise InvalidInput(
                f"got the data of {tensor.name[:80]!r} in the field contents; expected it in "
                "raw_input_contents"
            )
        parameters = {name: _value(one) for name, one in tensor.parameters.items()}
        data = None if _MEMORY[0] in parameters else next(given, None)
        if data is None and not parameters:
            raise InvalidInput(
                f"got {len(contents)} contents for {len(request.inputs)} inputs; expected one each"
            )
        tensors.append(_Input(tensor.name, tensor.datatype, tuple(tensor.shape), parameters, data))
    if next(given, None) is not None:
        raise InvalidInput(
            f"got {len(contents)} contents for {len(tensors)} inputs; expected one each"
        )
    _check_inputs(tensors, shared_memory=shared_memory)
    _check_outputs(
        (one.name, {name: _value(value) for name, value in one.parameters.items()})
        for one in request.outputs
    )
    _check_parameters({name: _value(one) for name, one in request.parameters.items()})
    request.DiscardUnknownFields()
    return request


def _value(parameter: Any) -> Any:
    chosen = parameter.WhichOneof("parameter_choice")
    return None if chosen is None else getattr(parameter, chosen)


# -- HTTP -----------------------------------------------------------------------------------------


def checked_json(text: bytes, rest: memoryview, *, shared_memory: bool) -> bytes:
    """The JSON to pass on. rest: the tensors that follow it in the body.

    Raises `InvalidInput` if it is no request of ours.
    """
    request = {"inputs": [], **_object(read_json(text), "the request")}  # Triton needs inputs
    if unknown := sorted(set(request) - _TRITONS):
        raise InvalidInput(f"got the field {unknown[0][:80]!r}; expected {sorted(_TRITONS)}")
    _check_id(request.get("id", ""))
    inputs, end = [], 0
    for one in _list(request["inputs"], "inputs"):
        tensor = _input_of(one, rest[end:])
        inputs.append(tensor)
        end += 0 if tensor.data is None else len(tensor.data)
    if end != len(rest):
        raise InvalidInput(f"got {len(rest)} bytes after the JSON; expected {end}, as it states")
    _check_inputs(inputs, shared_memory=shared_memory)
    outputs = [_object(one, "an output") for one in _list(request.get("outputs", []), "outputs")]
    _check_outputs((one.get("name"), one.get("parameters", {})) for one in outputs)
    if any(set(one) - {"name", "parameters"} for one in outputs):
        raise InvalidInput("got an output with other fields than name and parameters")
    parameters = dict(_object(request.get("parameters", {}), "parameters"))
    if not isinstance(parameters.pop(_BINARY_OUTPUT, True), bool):
        raise InvalidInput(f"got {_BINARY_OUTPUT} that is neither true nor false")
    _check_parameters(parameters)
    return json.dumps(request).encode()


def read_json(text: bytes) -> Any:
    """Raises `InvalidInput` for what is no JSON, or deeper or larger than a request can be."""

    def unique(pairs: list[tuple[str, Any]]) -> Json:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    def number(word: str) -> float:
        value = float(word)
        if not math.isfinite(value):
            raise ValueError(f"the number {word[:40]}")
        return value

    def integer(word: str) -> int:
        if len(word) > 20:
            raise ValueError("a number with more than 20 digits")
        return int(word)

    try:
        found = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=number,
            parse_float=number,
            parse_int=integer,
        )
        if _depth(found) > _MAX_DEPTH:
            raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(f"got a request whose JSON cannot be read ({reason[:200]})") from error
    return found


def _input_of(given: Any, rest: memoryview) -> _Input:
    """rest: begins with the tensor's bytes if they are not in the JSON."""
    one = _object(given, "an input")
    if unknown := sorted(set(one) - {"name", "datatype", "shape", "parameters", "data"}):
        raise InvalidInput(f"got an input with the field {unknown[0][:80]!r}; expected a tensor's")
    parameters = dict(_object(one.get("parameters", {}), "parameters"))
    shape = tuple(_list(one.get("shape"), "a shape"))
    data = one.get("data")
    if (data is not None) + (_BINARY in parameters) + (_MEMORY[0] in parameters) != 1:
        raise InvalidInput(
            f"got the input {str(one.get('name'))[:80]!r} without data, or with data twice; "
            f"expected either data or {_BINARY}"
        )
    content = None
    if (size := parameters.pop(_BINARY, None)) is not None:
        if type(size) is not int or not 0 <= size <= len(rest):
            raise InvalidInput(f"got {_BINARY} that is no number of bytes of the body")
        content = rest[:size]
    values = None if data is None else _flat(_list(data, "data"))
    return _Input(one.get("name"), one.get("datatype"), shape, parameters, content, values)


def _object(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise InvalidInput(f"got {what} that is no JSON object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"got {what} that is no JSON list")
    return value


def _flat(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for one in values:
        found += _flat(one) if isinstance(one, list) else [one]
    return found


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


# -- both -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Input:
    """A tensor of a request. data: its bytes. values: its numbers, where they are in JSON."""

    name: Any
    datatype: Any
    shape: tuple[Any, ...]
    parameters: Mapping[str, Any]
    data: bytes | memoryview | None = None
    values: Sequence[Any] | None = None


def _check_id(value: Any) -> None:
    if not isinstance(value, str) or len(value) > _MAX_ID or not value.isprintable():
        raise InvalidInput(f"got a request id that is no text of up to {_MAX_ID} characters")


def _check_inputs(tensors: Sequence[_Input], *, shared_memory: bool) -> None:
    names = [one.name for one in tensors]
    for one in tensors:
        spec = INPUTS.get(one.name) if isinstance(one.name, str) else None
        if spec is None:
            raise InvalidInput(f"got the input {str(one.name)[:80]!r}; expected {[*INPUTS]}")
        if one.datatype != spec.datatype:
            raise InvalidInput(
                f"got {one.name} as {str(one.datatype)[:80]!r}; expected {spec.datatype}"
            )
        count = _elements(one.name, one.shape)
        size = _size(one, shared_memory=shared_memory)
        if one.values is not None:
            _check_values(one, count)
        elif spec.datatype == "BYTES":
            _check_text(one, count)
        elif size != count * spec.dtype.itemsize:
            raise InvalidInput(
                f"got {one.name} of shape {list(one.shape)} in {size} bytes; expected "
                f"{count * spec.dtype.itemsize}"
            )
    if len(set(names)) != len(names):
        raise InvalidInput("got an input twice; expected each once")


def _elements(name: str, shape: Sequence[Any]) -> int:
    sides = [side for side in shape if type(side) is int and 0 <= side < 2**31]
    if len(sides) != len(shape) or len(shape) > _MAX_SIDES:
        raise InvalidInput(f"got {name} of shape {str(list(shape))[:200]}; expected its sides")
    return math.prod(sides)


def _size(one: _Input, *, shared_memory: bool) -> int:
    """Bytes of the data, which is in the request or in shared memory."""
    if one.data is not None or one.values is not None:
        _only(one, ())
        return 0 if one.data is None else len(one.data)
    if not shared_memory:
        raise InvalidInput(f"got {one.name} in shared memory, which is closed to clients")
    _only(one, _MEMORY)
    if not _is_region(one.parameters.get(_MEMORY[0])):
        raise InvalidInput(f"got a region of shared memory with a wrong name for {one.name}")
    size, offset = one.parameters.get(_MEMORY[1]), one.parameters.get(_MEMORY[2], 0)
    for value in (size, offset):
        if type(value) is not int or not 0 <= value <= rules.MAX_REQUEST_BYTES:
            raise InvalidInput(f"got {one.name} with a size that is no number of bytes")
    return int(size or 0)


def _only(one: _Input, expected: Sequence[str]) -> None:
    if unknown := sorted(set(one.parameters) - set(expected)):
        raise InvalidInput(f"got {one.name} with the parameter {unknown[0][:80]!r}; expected none")


def _check_text(one: _Input, count: int) -> None:
    """A BYTES tensor: each element after its length in 4 bytes, little-endian."""
    data = bytes((one.data or b"")[: _MAX_TEXT + 1])
    at, seen = 0, 0
    while at < len(data) and seen <= count:
        at += 4 + int.from_bytes(data[at : at + 4], "little")
        seen += 1
    if at != len(data) or seen != count or len(data) > _MAX_TEXT:
        raise InvalidInput(
            f"got {one.name} in {len(one.data or b'')} bytes; expected texts after their lengths, "
            f"one for each of {count} elements, in at most {_MAX_TEXT} bytes"
        )


def _check_values(one: _Input, count: int) -> None:
    values = one.values or ()
    kinds = {"BYTES": str, "FP32": int | float, "BOOL": bool | int}.get(one.datatype, int)
    if len(values) != count or not all(isinstance(value, kinds) for value in values):
        raise InvalidInput(
            f"got {one.name} of shape {list(one.shape)} with {len(values)} values; expected "
            f"{count} of type {one.datatype}"
        )


def _check_outputs(outputs: Iterable[tuple[Any, Any]]) -> None:
    """No output may be in shared memory, and none may be classified: both crash Triton."""
    seen: set[str] = set()
    for name, parameters in outputs:
        if not isinstance(name, str) or name not in OUTPUTS or name in seen:
            raise InvalidInput(
                f"got the output {str(name)[:80]!r}; expected each of {[*OUTPUTS]} at most once"
            )
        seen.add(name)
        binary = parameters.get("binary_data", True) if isinstance(parameters, dict) else None
        if not isinstance(binary, bool) or set(parameters) - {"binary_data"}:
            raise InvalidInput(
                f"got the output {name} with parameters; expected binary_data or none"
            )


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    if len(parameters) > _MAX_PARAMETERS:
        raise InvalidInput(f"got {len(parameters)} parameters; expected at most {_MAX_PARAMETERS}")
    for name, value in parameters.items():
        if not _PARAMETER.fullmatch(name):
            raise InvalidInput(f"got the parameter {name[:80]!r}; expected names that begin ois_")
        if not isinstance(value, str | bool | int | float) or len(str(value)) > _MAX_TEXT:
            raise InvalidInput(f"got the parameter {name} that is no short text")


# -- shared memory of clients ---------------------------------------------------------------------


def _is_region(name: Any) -> bool:
    return isinstance(name, str) and _REGION.fullmatch(name) is not None


def check_region(name: Any, key: Any, offset: Any, size: Any) -> None:
    """Whether a client may name this memory. Only what Python's `SharedMemory` makes: the server's
    own memory has other names. Raises `InvalidInput`."""
    if not _is_region(name) or not isinstance(key, str) or not _SHARED.fullmatch(key):
        raise InvalidInput("got a name of shared memory that a client may not use; expected psm_*")
    if offset != 0 or type(size) is not int or not 0 < size <= rules.MAX_REQUEST_BYTES:
        raise InvalidInput("got shared memory with a wrong offset or size")


#: Names that Python's `SharedMemory` chooses.
_SHARED = re.compile(r"/?(psm|wnsm)_[A-Za-z0-9_]{4,32}")
