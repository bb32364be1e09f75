"""Finds the device that PyTorch runs on, and sets how PyTorch computes on it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ois_client.contract.errors import EngineError
from ois_runtime.engines.backends import Precision

#: The lowest compute capability with tensor cores for fp16, and for bf16.
_OLDEST = (7, 5)
_OLDEST_BF16 = (8, 0)
_DTYPES = {
    Precision.FP32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}


def find_device(name: str, precision: Precision) -> torch.device:
    """The device called `"cpu"`, `"cuda"`, `"cuda:1"` and so on, with its number.

    Raises `EngineError` if PyTorch cannot use this GPU, or not in this precision.
    """
    if name == "cpu":
        return torch.device(name)
    advice = "use device=cpu, or `ois doctor` to see what is missing"
    if torch.version.cuda is None:
        raise EngineError(
            f"got the device {name}, but this PyTorch ({torch.__version__}) is built without CUDA; "
            f"install one that has it (pytorch.org), or {advice}"
        )
    if not torch.cuda.is_available():
        raise EngineError(
            f"got the device {name}, but PyTorch finds no usable NVIDIA GPU (driver missing, too "
            f"old for CUDA {torch.version.cuda}, or GPU hidden from this process); {advice}"
        )
    device = torch.device(name)
    number = torch.cuda.current_device() if device.index is None else device.index
    if number >= torch.cuda.device_count():
        raise EngineError(
            f"got the device {name}; this machine has cuda:0 to "
            f"cuda:{torch.cuda.device_count() - 1}"
        )
    oldest = _OLDEST_BF16 if precision is Precision.BF16 else _OLDEST
    capability = torch.cuda.get_device_capability(number)
    if capability < oldest:
        raise EngineError(
            f"{torch.cuda.get_device_name(number)} has compute capability "
            f"{capability[0]}.{capability[1]}; {precision} needs {oldest[0]}.{oldest[1]} or later"
        )
    return torch.device("cuda", number)


def dtype_of(precision: Precision) -> torch.dtype:
    """PyTorch's dtype for a precision."""
    return _DTYPES[precision]


class _SharedSwitches:
    """Process-wide switches that are set while at least one thread is in a `held` block.

    Engines compute in parallel, each in its own thread. If each saved, set and restored the
    switches by itself, the first to finish would reset them for the others, and the last would
    restore a value that another engine had set. So the first thread to enter sets the switches,
    and the last one to leave restores them.
    """

    _lock = threading.Lock()  # one for all instances, because they share a switch

    def __init__(self, *switches: tuple[Any, str, object]) -> None:
        """switches: (owner, attribute, value)."""
        self._switches = switches
        self._users = 0
        self._before: list[object] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._before = [getattr(owner, name) for owner, name, _ in self._switches]
                for owner, name, value in self._switches:
                    setattr(owner, name, value)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    for (owner, name, _), before in zip(self._switches, self._before, strict=True):
                        setattr(owner, name, before)


_CUDNN: Any = torch.backends.cudnn
_EXACT = _SharedSwitches(
    (_CUDNN, "benchmark", False),
    (_CUDNN.conv, "fp32_precision", "ieee"),
    (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
)
_MEASURED = _SharedSwitches((_CUDNN, "benchmark", True))


@contextmanager
def exact_products() -> Iterator[None]:
    """In this block fp32 products are not rounded to TF32, and cuDNN chooses algorithms without
    measuring them.

    TF32 has ten bits, too few for the coordinates of clicks, which half precision engines compute
    in fp32 too. The switches belong to the process; they are restored when no engine computes.
    """
    with _EXACT.held():
        yield


@contextmanager
def measured_algorithms() -> Iterator[None]:
    """In this block, nested in `exact_products`, cuDNN measures its algorithms for every new shape
    of a convolution.

    That takes seconds for a network, so it is used only for shapes that get a graph. Another engine
    that meets a new shape at the same time measures too, and takes longer once.
    """
    with _MEASURED.held():
        yield


#: Messages for "out of memory". PyTorch's allocator has its own error class; CUDA (when it
#: instantiates a graph), cuBLAS and cuDNN raise a plain RuntimeError.
_NO_MEMORY = re.compile(r"out of memory|ALLOC(ATION)?_FAILED|OUT_OF_MEMORY", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or an error that led to it, means that the device's memory is full.

    An error during a capture is followed by a second error, because the capture then fails.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError) or _NO_MEMORY.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
