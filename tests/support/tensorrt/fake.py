"""A stand-in for TensorRT on machines without a GPU.

The API is real: every call is checked against the signatures of NVIDIA's bindings (api.json,
written by extract_api.py), and using a name that they lack fails. The values are real: ONNX
Runtime runs the engine's graph, on the addresses that the caller allocated and filled. Profiles,
types, shapes and the order of calls follow TensorRT's documentation. Kernels, fusions, timing and
the bugs of TensorRT are missing.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import pickle
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError
from ois_export.parity.reference import emulate_bf16

APIS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("api.json").read_text(encoding="utf-8")
)
VERSIONS = [api["version"] for api in APIS]
_TYPES = {1: "FLOAT", 10: "HALF", 16: "BF16", 2: "UINT8", 6: "INT32", 7: "INT64", 9: "BOOL"}
_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


def signature_of(text: str) -> inspect.Signature:
    """Parse a docstring's signature, such as `"set_shape(self: X, input: str, ...) -> None"`."""
    inside = text[text.index("(") + 1 : text.rindex(") ->")]
    parts, depth, part = [], 0, ""
    for character in inside + ",":
        depth += (character in "[(<") - (character in "])>")
        if character == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += character
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(
                each.split(":")[0].strip(),
                kind,
                default=None if "=" in each else inspect.Parameter.empty,
            )
            for each in parts
            if each
        ]
    )


def check_call(api: dict[str, Any], owner: str, method: str, *args: Any, **kwargs: Any) -> None:
    """Fail unless the real `owner.method` accepts these arguments (without self)."""
    overloads = api["classes"][owner][method]
    assert overloads, f"TensorRT {api['version']} has no method {owner}.{method}"
    reasons = []
    for text in overloads:
        try:
            signature_of(text).bind(None, *args, **kwargs)
        except TypeError as error:
            reasons.append(f"{text}: {error}")
        else:
            return
    raise AssertionError(f"TensorRT {api['version']} has no such call: {reasons}")


class FakeTensorRT:
    """The module `tensorrt` of one version.

    calls: every method called, as "Class.method". wrong: the fault to simulate, "" or one of
    "precision" (fp32 layers), "values", "rows" (the last row differs), "build", "parse",
    "profile".
    """

    def __init__(self, api: dict[str, Any], wrong: str = "") -> None:
        self.api = api
        self.__version__ = api["version"]
        self.calls: set[str] = set()
        self.wrong = wrong
        self.seen = SimpleNamespace(
            flags=0, cleared=[], monitored=[], level=None, workspace=None, attentions=[]
        )
        for name, members in api["enums"].items():
            setattr(self, name, IntEnum(name, members, start=0))
        severity = IntEnum(
            "Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0
        )

        if "IAttentionInputLayer" in api["classes"]:

            class IAttentionInputLayer(_Layer):
                @property
                def attention(self) -> Any:
                    return self.inside

            self.IAttentionInputLayer = IAttentionInputLayer

        class ILogger:
            Severity = severity

            def log(self, severity: int, msg: str) -> None:
                raise NotImplementedError

        class Logger(ILogger):
            ERROR = severity.ERROR

            def __init__(self, min_severity: int) -> None:
                self.min_severity = min_severity

        class IProgressMonitor:
            pass

        self.ILogger, self.Logger, self.IProgressMonitor = ILogger, Logger, IProgressMonitor
        self.Builder = lambda *a, **k: self.make("Builder", _Builder, *a, **k)
        self.OnnxParser = lambda *a, **k: self.make("OnnxParser", _Parser, *a, **k)
        self.Runtime = lambda *a, **k: self.make("Runtime", _Runtime, *a, **k)

    def make(self, owner: str, kind: Callable[..., Any], *args: Any, **kwargs: Any) -> _Checked:
        check_call(self.api, owner, "__init__", *args, **kwargs)
        return _Checked(self, owner, kind(self, *args, **kwargs))

    def nptype(self, kind: IntEnum) -> Any:
        return _NUMPY[kind.name]


class _Checked:
    """Wraps an object of the fake and checks each use against the real class."""

    def __init__(self, trt: FakeTensorRT, owner: str, inner: Any) -> None:
        object.__setattr__(self, "_parts", (trt, owner, inner))

    def __getattr__(self, name: str) -> Any:
        trt, owner, inner = self._parts
        assert name in trt.api["classes"][owner], f"{owner} has no {name} in {trt.__version__}"
        value = getattr(inner, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            check_call(trt.api, owner, name, *args, **kwargs)
            trt.calls.add(f"{owner}.{name}")
            return value(*args, **kwargs)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        trt, owner, inner = self._parts
        assert trt.api["classes"][owner].get(name) == [], f"{owner}.{name} cannot be set"
        setattr(inner, name, value)


def _inner(checked: Any) -> Any:
    return checked._parts[2]


class _Builder:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        assert isinstance(logger, trt.ILogger)
        self.trt, self.logger = trt, logger

    def create_network(self, flags: int = 0) -> Any:
        self.trt.seen.flags = flags
        return _Network(self.trt)

    def create_builder_config(self) -> _Checked:
        return _Checked(self.trt, "IBuilderConfig", _Config(self.trt))

    def create_optimization_profile(self) -> _Checked:
        return _Checked(self.trt, "IOptimizationProfile", _Profile())

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        settings = _inner(config)
        monitor = settings.progress_monitor
        for name in ("phase_start", "step_complete", "phase_finish"):
            wanted = signature_of(self.trt.api["classes"]["IProgressMonitor"][name][0])
            got = inspect.signature(getattr(type(monitor), name))
            assert list(got.parameters) == list(wanted.parameters)
        monitor.phase_start("Building Engine", None, 4)
        monitor.phase_start("Tactics", "Building Engine", 2)
        for step in range(4):
            assert monitor.step_complete("Building Engine", step) is True
        monitor.phase_finish("Tactics")
        monitor.phase_finish("Building Engine")
        if self.trt.wrong == "build":
            self.logger.log(self.trt.ILogger.Severity.ERROR, "no kernel for node /attention")
            return None
        dynamic = {
            value.name
            for value in network.model.graph.input
            if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
        }
        for profile in settings.profiles:
            assert set(profile.shapes) == dynamic
        settings.cache.timed += 1
        return pickle.dumps(
            {
                "version": self.trt.__version__,
                "profiles": [profile.shapes for profile in settings.profiles],
                "verbose": settings.profiling_verbosity.name == "DETAILED",
                "model": network.model.SerializeToString(),
            }
        )


class _Config:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.profiles: list[_Profile] = []
        self.progress_monitor: Any = None
        self.profiling_verbosity: Any = trt.ProfilingVerbosity["LAYER_NAMES_ONLY"]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "builder_optimization_level":
            self.trt.seen.level = value
        object.__setattr__(self, name, value)

    def clear_flag(self, flag: IntEnum) -> None:
        self.trt.seen.cleared.append(flag.name)

    def set_memory_pool_limit(self, pool: IntEnum, pool_size: int) -> None:
        assert pool.name == "WORKSPACE"
        self.trt.seen.workspace = pool_size

    def add_optimization_profile(self, profile: Any) -> int:
        if self.trt.wrong == "profile":
            return -1
        self.profiles.append(_inner(profile))
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> _Checked | None:
        if serialized_timing_cache and not serialized_timing_cache.isdigit():
            return None
        return _Checked(self.trt, "ITimingCache", _Cache(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self.cache = _inner(cache)
        return True

    def get_timing_cache(self) -> _Checked:
        return _Checked(self.trt, "ITimingCache", self.cache)


class _Cache:
    def __init__(self, data: bytes) -> None:
        self.timed = int(data or b"0")

    def serialize(self) -> bytes:
        return str(self.timed).encode()


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)), input
        self.shapes[input] = tuple(min), tuple(opt), tuple(max)


class _Parser:
    def __init__(self, trt: FakeTensorRT, network: Any, logger: Any) -> None:
        assert isinstance(logger, trt.ILogger)
        self.trt, self.network = trt, network
        self.num_errors = int(trt.wrong == "parse")

    def parse_from_file(self, model: str) -> bool:
        self.network.model = onnx.load(model)
        return self.trt.wrong != "parse"

    def get_error(self, index: int) -> _Checked:
        assert index < self.num_errors
        error = SimpleNamespace(
            desc=lambda: "unsupported",
            node_name=lambda: "node_7",
            node_operator=lambda: "Attention",
        )
        return _Checked(self.trt, "ParserError", error)


class _Runtime:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        assert isinstance(logger, trt.ILogger)
        self.trt = trt

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> _Checked | None:
        try:
            plan = pickle.loads(serialized_engine)
        except pickle.UnpicklingError:
            return None
        if plan["version"] != self.trt.__version__:
            return None
        return _Checked(self.trt, "ICudaEngine", _Engine(self.trt, plan))


class _Layer:
    """A layer of a network. Its class is assigned, as with pybind11, to reach its own members."""

    type: IntEnum
    inside: Any


class _Network:
    """The attentions of the parsed graph as layers, in versions that have such layers."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt, self.model = trt, None
        self._layers: list[_Layer] | None = None

    @property
    def num_layers(self) -> int:
        return len(self._all())

    def get_layer(self, index: int) -> _Layer:
        check_call(self.trt.api, "INetworkDefinition", "get_layer", index)
        return self._all()[index]

    def _all(self) -> list[_Layer]:
        if self._layers is None:
            nodes = [] if self.model is None else self.model.graph.node
            has_attention = "IAttention" in self.trt.api["classes"]
            self._layers = []
            for node in nodes:
                layer = _Layer()
                attends = node.op_type == "Attention" and has_attention
                layer.type = self.trt.LayerType["ATTENTION_INPUT" if attends else "SHUFFLE"]
                layer.inside = SimpleNamespace(decomposable=False)
                self._layers.append(layer)
            self.trt.seen.attentions += [
                layer.inside for layer in self._layers if layer.type.name == "ATTENTION_INPUT"
            ]
        return self._layers


class _Engine:
    def __init__(self, trt: FakeTensorRT, plan: dict[str, Any]) -> None:
        self.trt, self.plan = trt, plan
        self.model = onnx.load_from_string(plan["model"])
        runnable = self.model
        if "BF16" in {_TYPES.get(t.data_type) for t in runnable.graph.initializer}:
            runnable = emulate_bf16(runnable)
        self.session = onnxruntime.InferenceSession(
            runnable.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        inputs, outputs = self.model.graph.input, self.model.graph.output
        self.tensors = {value.name: value.type.tensor_type for value in (*inputs, *outputs)}
        self.input_names = [value.name for value in inputs]
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = len(plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> IntEnum:
        return self.trt.TensorIOMode["INPUT" if name in self.input_names else "OUTPUT"]

    def get_tensor_dtype(self, name: str) -> IntEnum:
        return self.trt.DataType[_TYPES[self.tensors[name].elem_type]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        fixed = tuple(dim.dim_value for dim in self.tensors[name].shape.dim)
        return list(self.plan["profiles"][profile_index].get(name, (fixed,) * 3))

    def create_execution_context(self, strategy: IntEnum) -> _Checked:
        self.trt.seen.strategy = strategy.name
        return _Checked(self.trt, "IExecutionContext", _Context(self))

    def create_engine_inspector(self) -> _Checked:
        return _Checked(self.trt, "EngineInspector", _Inspector(self))


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.results: dict[str, NDArray[Any]] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle == HostMemory.stream
        self.profile = profile_index
        self.shapes.clear()
        return profile_index < self.engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        lowest, _, highest = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(lowest, shape, highest, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory != 0

    def infer_shapes(self) -> list[str]:
        missing = [name for name in self.engine.input_names if name not in self.shapes]
        if missing:
            return missing
        feeds = {}
        for name in self.engine.input_names:
            dtype = self.engine.trt.nptype(self.engine.get_tensor_dtype(name))
            feeds[name] = np.empty(self.shapes[name], dtype)
            ctypes.memmove(feeds[name].ctypes.data, self.addresses[name], feeds[name].nbytes)
        names = [output.name for output in self.engine.session.get_outputs()]
        outputs = self.engine.session.run(names, feeds)
        self.results = {n: np.ascontiguousarray(a) for n, a in zip(names, outputs, strict=True)}
        wrong = self.engine.trt.wrong
        if wrong == "values" and "logits" in self.results:
            self.results["logits"] = self.results["logits"] * np.float32(1.5)
        if wrong == "rows" and len(self.results.get("logits", ())) > 1:
            self.results["logits"][-1] += 1
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.results[name].shape if name in self.results else self.shapes[name]

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == HostMemory.stream
        for name, array in self.results.items():
            ctypes.memmove(self.addresses[name], array.ctypes.data, array.nbytes)
        return True


class _Inspector:
    """Describes layers and their types in the format of TensorRT 10 or 11."""

    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.execution_context: Any = None

    def get_engine_information(self, format: IntEnum) -> str:
        assert format.name == "JSON"
        assert _inner(self.execution_context).shapes, (
            "the inspector reports types only after shapes were set"
        )
        inferred = onnx.shape_inference.infer_shapes(self.engine.model).graph
        types = {
            value.name: _TYPES.get(value.type.tensor_type.elem_type, "")
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
        }
        types |= {tensor.name: _TYPES.get(tensor.data_type, "") for tensor in inferred.initializer}
        if not self.engine.plan["verbose"]:
            return json.dumps({"Layers": [node.name for node in inferred.node]})
        layers = [
            {
                "Name": node.name,
                "LayerType": node.op_type,
                "Inputs": [self._tensor(name, types) for name in node.input if name],
                "Outputs": [self._tensor(name, types) for name in node.output],
            }
            for node in inferred.node
        ]
        edges = "I/O Tensors" if self._eleven else "Bindings"
        return json.dumps({"Layers": layers, edges: list(self.engine.tensors)})

    @property
    def _eleven(self) -> bool:
        return self.engine.trt.__version__.startswith("11.")

    def _tensor(self, name: str, types: dict[str, str]) -> dict[str, str]:
        kind = types.get(name, "")
        if self.engine.trt.wrong == "precision" and kind in ("HALF", "BF16"):
            kind = "FLOAT"
        if self._eleven:
            said = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16"}.get(kind, kind.title())
            return {"Name": name, "Format": "Linear", "DataType": said}
        said = {"FLOAT": "FP32", "HALF": "FP16"}.get(kind, kind)
        return {"Name": name, "Format/Datatype": f"Row major linear {said} format"}


class HostMemory:
    """`DeviceMemory` in host memory. Counts uploads and downloaded bytes, tracks allocations.

    failures: the number of next allocations that fail.
    """

    stream = 7

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.uploads = 0
        self.downloads = 0
        self.failures = 0
        self.closed = False

    def use(self) -> None:
        pass

    def allocate(self, nbytes: int) -> int:
        if self.failures:
            self.failures -= 1
            raise EngineError("cudaMalloc failed: out of memory (CUDA error 2)")
        buffer = ctypes.create_string_buffer(max(nbytes, 1))
        address = ctypes.addressof(buffer)
        self.held[address] = buffer
        return address

    def free(self, address: int) -> None:
        del self.held[address]

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        assert array.nbytes <= self._room(address)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
        self.uploads += 1

    def download(self, array: NDArray[np.generic], address: int) -> None:
        assert array.nbytes <= self._room(address)
        self.downloads += array.nbytes
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def synchronize(self) -> None:
        pass

    def tensor(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        import torch

        assert int(np.prod(shape)) * dtype.itemsize <= self._room(address)
        buffer = (ctypes.c_char * (int(np.prod(shape)) * dtype.itemsize)).from_address(address)
        return torch.from_numpy(np.frombuffer(buffer, dtype).reshape(shape))

    def _room(self, address: int) -> int:
        """Bytes from an address, which may lie inside an allocation, to its end."""
        starts = [start for start in self.held if start <= address]
        assert starts, "an address that was not allocated"
        start = max(starts)
        return start + len(self.held[start]) - address

    def close(self) -> None:
        assert not self.closed
        self.closed = True
