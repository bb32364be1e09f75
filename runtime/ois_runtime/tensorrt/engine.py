"""Runs TensorRT plans, made by `ois build`, in process. *Not run on a GPU yet.*

Tested with real graphs behind a fake of TensorRT's API, which checks every call against the
signatures of the real bindings (10.12 and 11.4).
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import EngineError
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.engines.pair import Arrays
from ois_runtime.tensorrt.library import library_version, load_tensorrt
from ois_runtime.tensorrt.memory import (
    CudaMemory,
    DeviceArray,
    DeviceBlock,
    DeviceBuffers,
    DeviceMemory,
)

Shape = tuple[int, ...]
Result = TypeVar("Result")


def describe(options: EngineOptions) -> str:
    library, gpu = load_tensorrt(_index(options))
    return f"tensorrt {library_version(library)} on {gpu.name}"


def open_graph(path: Path, options: EngineOptions) -> PlanGraph:
    """Load a plan. Raises `EngineError` if `path` is not a plan or cannot run here."""
    if path.suffix != ".plan":
        raise EngineError(
            f"{path} is not a TensorRT plan. Build the plans and use their folder: ois build "
            f"{path.parent} --output plans"
        )
    index = _index(options)
    library, _ = load_tensorrt(index)
    return PlanGraph(path, library, CudaMemory(index))


def _index(options: EngineOptions) -> int:
    """The GPU's number: 1 for `"cuda:1"`, 0 for `"cuda"`."""
    return int(options.device.partition(":")[2] or 0)


class PlanGraph:
    """One plan with an execution context. Thread-safe: one run at a time.

    Results can stay on the GPU (`run_with`). A read-only array (features that were stored in a
    file) is uploaded once and stays there as long as the array exists. All other arrays are copied
    in at each run. The GPU memory is freed when
    this object is garbage collected.
    """

    def __init__(self, path: Path, library: Any, memory: DeviceMemory) -> None:
        """memory: used by this plan only, which also closes it.

        Raises `EngineError` if the plan is damaged, or was built by another TensorRT or for another
        GPU.
        """
        self._path = path
        self._library = library
        self._memory = memory
        self._buffers = DeviceBuffers(memory)
        # Not at exit, for the same reason as in `DeviceBuffers`.
        weakref.finalize(self, self._buffers.close).atexit = False
        self._lock = threading.Lock()
        self._logger = library.Logger(library.Logger.ERROR)
        self._runtime = library.Runtime(self._logger)
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise EngineError(f"could not read {path}: {error}") from error
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"TensorRT {library_version(library)} cannot load {path}: it was built by another "
                "version or for another GPU. Build it here: ois build"
            )
        # Memory for the profile that is used, not for the largest: see `docs/tensorrt.md`.
        self._context = self._engine.create_execution_context(
            library.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        )
        if self._context is None:
            raise EngineError(f"{path.name} does not fit into the GPU's free memory")
        names = [self._engine.get_tensor_name(n) for n in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self.inputs = tuple(n for n in names if modes[n] == library.TensorIOMode.INPUT)
        self.outputs = tuple(n for n in names if modes[n] == library.TensorIOMode.OUTPUT)
        self._types = {
            name: np.dtype(library.nptype(self._engine.get_tensor_dtype(name))) for name in names
        }
        self.profiles = [
            {name: self._profile(name, number) for name in self.inputs}
            for number in range(self._engine.num_optimization_profiles)
        ]
        self._active = -1

    @property
    def most_objects(self) -> int:
        """The most objects that a run can have, in any profile. Raises `KeyError` in an encoder."""
        return max(profile["labels"][2][0] for profile in self.profiles)

    def describe_layers(self) -> str:
        """The engine inspector's JSON, for the optimal shapes of the first profile.

        Shapes must be set because the types of a plan with dynamic shapes are unknown before.
        """
        with self._lock:
            self._memory.use()
            self._select(0)
            for name, (_, best, _) in self.profiles[0].items():
                self._require(self._context.set_input_shape(name, best), f"{name} is {best}")
            inspector = self._engine.create_engine_inspector()
            inspector.execution_context = self._context
            text: str = inspector.get_engine_information(self._library.LayerInformationFormat.JSON)
            return text

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        return self.run_with(
            feeds, lambda results: {name: result.numpy() for name, result in results.items()}
        )

    def run_with(
        self,
        feeds: Mapping[str, NDArray[np.generic] | DeviceArray],
        use: Callable[[dict[str, DeviceArray]], Result],
        *,
        keep: bool = False,
    ) -> Result:
        """Run, and call `use` with the results on the GPU, complete. Returns what `use` returns.

        feeds: NumPy arrays, or results of another plan on this GPU. keep: the results stay valid as
        long as something refers to them. Otherwise the next run overwrites them, after `use`.
        """
        arrays = {
            name: array if isinstance(array, DeviceArray) else np.ascontiguousarray(array)
            for name in self.inputs
            for array in (feeds[name],)
        }
        for name, array in arrays.items():
            if array.dtype != self._types[name]:
                raise EngineError(
                    f"{self._path.name}: {name} is {array.dtype}; expected {self._types[name]}"
                )
        shapes = {name: array.shape for name, array in arrays.items()}
        profile = choose_profile(self.profiles, shapes)
        if profile is None:
            raise EngineError(
                f"{self._path.name} was not built for {_text(shapes)}; its profiles are "
                + "; ".join(_ranges(each) for each in self.profiles)
                + ". Build it for these shapes: ois build --help"
            )
        with self._lock:
            return use(self._run(arrays, profile, keep=keep))

    def _run(
        self,
        arrays: Mapping[str, NDArray[np.generic] | DeviceArray],
        profile: int,
        *,
        keep: bool,
    ) -> dict[str, DeviceArray]:
        context, memory = self._context, self._memory
        memory.use()
        self._select(profile)
        for name, array in arrays.items():
            self._require(context.set_input_shape(name, array.shape), f"{name} is {array.shape}")
            if isinstance(array, DeviceArray):
                address = array.address
            else:
                address = self._buffers.place(name, array)
            self._require(context.set_tensor_address(name, address), name)
        unknown = context.infer_shapes()
        self._require(not unknown, f"the shapes of {', '.join(unknown)} are unknown")
        shapes = {name: tuple(context.get_tensor_shape(name)) for name in self.outputs}
        sizes = {name: math.prod(shapes[name]) * self._types[name].itemsize for name in shapes}
        block = DeviceBlock(memory, sizes) if keep else None
        results = {}
        for name, shape in shapes.items():
            address = block.addresses[name] if block else self._buffers.named(name, sizes[name])
            self._require(context.set_tensor_address(name, address), name)
            results[name] = DeviceArray(memory, address, shape, self._types[name], block)
        self._require(context.execute_async_v3(memory.stream), "the run failed")
        # For other streams: the other plan's, and PyTorch's.
        memory.synchronize()
        return results

    def _select(self, profile: int) -> None:
        if profile != self._active:
            done = self._context.set_optimization_profile_async(profile, self._memory.stream)
            self._require(done, f"profile {profile} cannot be selected")
            self._active = profile

    def _profile(self, name: str, number: int) -> tuple[Shape, Shape, Shape]:
        lowest, best, highest = self._engine.get_tensor_profile_shape(name, number)
        return tuple(lowest), tuple(best), tuple(highest)

    def _require(self, done: object, what: str) -> None:
        if not done:
            raise EngineError(f"{self._path.name}: TensorRT refused the input: {what}")


def choose_profile(
    profiles: Sequence[dict[str, tuple[Shape, Shape, Shape]]], shapes: dict[str, Shape]
) -> int | None:
    """The number of the profile whose range contains `shapes` and whose optimum is nearest.

    profiles: per input (min, opt, max). Returns None if no profile contains the shapes.
    """
    fitting = [
        number
        for number, profile in enumerate(profiles)
        if all(
            len(shape) == len(profile[name][0])
            and all(
                low <= side <= high
                for low, side, high in zip(profile[name][0], shape, profile[name][2], strict=True)
            )
            for name, shape in shapes.items()
        )
    ]

    def distance(number: int) -> float:
        return sum(
            abs(float(np.log(np.prod(shape) / np.prod(profiles[number][name][1]))))
            for name, shape in shapes.items()
        )

    return min(fitting, key=distance, default=None)


def _text(shapes: dict[str, Shape]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _ranges(profile: dict[str, tuple[Shape, Shape, Shape]]) -> str:
    return ", ".join(
        f"{name} {'x'.join(map(str, low))} to {'x'.join(map(str, high))}"
        for name, (low, _, high) in profile.items()
    )
