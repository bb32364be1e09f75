"""Peers as ONNX graphs: traced as their own export scripts do, and run on the CPU.

ONNX Runtime runs them in fp32. It has no bf16 on a CPU, so OpenVINO runs them in bf16: the library
and the precision of OIS's fastest engines.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ois_runtime.engines.backends import EngineOptions, Precision

_OPSET = 17
Arrays = Mapping[str, NDArray[np.generic]]
T = TypeVar("T")


class Graph(Protocol):
    """A loaded graph. inputs, outputs: names. engine: library, version and precision."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    engine: str

    def run(self, feeds: Arrays) -> Mapping[str, NDArray[Any]]:
        """Arrays by output. feeds: an array for every input; others are ignored."""


def trace(
    graph: nn.Module,
    inputs: dict[str, Tensor],
    outputs: list[str],
    path: Path,
    axes: dict[str, dict[int, str]] | None = None,
) -> None:
    """Write `graph` as ONNX. axes: names of the dimensions that are free, by input."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about the peers' code
        torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            str(path),
            opset_version=_OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=axes or {},
            dynamo=False,
        )


def in_its_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in another process, and raise what it raises.

    Exporting and counting need far more memory than clicking. So the peak stays elsewhere.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def open_graph(path: Path, threads: int, precision: Precision = Precision.FP32) -> Graph:
    """Load a graph in fp32 or bf16. Raises `EngineError` if bf16 is not native on this CPU."""
    if precision is Precision.FP32:
        return _OnnxRuntime(path, threads)
    return _OpenVino(path, EngineOptions(threads=threads, precision=precision))


class _OnnxRuntime:
    """With the library's own settings, which is how peers are usually deployed."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        # The exporter drops inputs that the graph does not use.
        self.inputs = tuple(each.name for each in self._session.get_inputs())
        self.outputs = tuple(each.name for each in self._session.get_outputs())
        self.engine = f"onnxruntime {onnxruntime.__version__} fp32 on cpu"

    def run(self, feeds: Arrays) -> Mapping[str, NDArray[Any]]:
        found = self._session.run(None, {name: feeds[name] for name in self.inputs})
        return dict(zip(self.outputs, found, strict=True))


class _OpenVino:
    def __init__(self, path: Path, options: EngineOptions) -> None:
        from ois_runtime.engines import openvino

        self._graph = openvino.open_graph(path, options)
        self.inputs, self.outputs = self._graph.inputs, self._graph.outputs
        self.engine = f"{openvino.describe(options)} on cpu"

    def run(self, feeds: Arrays) -> Mapping[str, NDArray[Any]]:
        return self._graph.run({name: feeds[name] for name in self.inputs})
