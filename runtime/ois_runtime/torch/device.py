"""The device that PyTorch runs on: found, or refused with what to do."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ois_client.contract.errors import EngineError
from ois_runtime.engines.backends import Precision

#: The first compute capability with tensor cores for fp16; bf16 came with 8.0.
_OLDEST = (7, 5)
_OLDEST_BF16 = (8, 0)
_DTYPES = {
    Precision.FP32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}


def find_device(name: str, precision: Precision) -> torch.device:
    """`"cpu"`, `"cuda"` or `"cuda:1"` -> the device, with its number.

    Raises `EngineError` when PyTorch cannot use such a GPU, or not in this precision.
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
    """PyTorch's name of a precision."""
    return _DTYPES[precision]


class _Shared:
    """Switches of the whole process, held at a value while anybody is in a block.

    Engines compute beside each other, each in a thread of its own. Were each to set the switches
    and set back what it had found, the one that ends first would take them from the others, and
    the last would leave what another had set. So the first one in sets them, and the last one
    out sets them back.
    """

    _lock = threading.Lock()  # of all: what one sets back, another may be about to set

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
_EXACT = _Shared(
    (_CUDNN, "benchmark", False),
    (_CUDNN.conv, "fp32_precision", "ieee"),
    (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
)
_MEASURED = _Shared((_CUDNN, "benchmark", True))


@contextmanager
def exact_products() -> Iterator[None]:
    """In this block no fp32 product is rounded to TF32, and cuDNN takes the algorithm it expects
    to be fastest.

    TF32 keeps ten bits: the coordinates of a click would lose what fp32 islands keep, so engines
    of every precision want the same. The switches are the process's: they are set back when no
    engine computes.
    """
    with _EXACT.held():
        yield


@contextmanager
def measured_algorithms() -> Iterator[None]:
    """In this block, which is one within `exact_products`, cuDNN tries its algorithms on every
    convolution whose shape is new to it.

    That takes seconds for a network, so it is for shapes whose graph is replayed from then on.
    Another engine that meets a new shape meanwhile tries them too: it takes longer once.
    """
    with _MEASURED.held():
        yield


#: What libraries say when they get no memory. PyTorch's own allocator has a class for it; CUDA
#: (instantiating a graph), cuBLAS and cuDNN raise a plain RuntimeError.
_NO_MEMORY = re.compile(r"out of memory|ALLOC(ATION)?_FAILED|OUT_OF_MEMORY", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or what it followed, says that the device's memory is full.

    An error during a capture is followed by another one, of the capture that it spoilt.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError) or _NO_MEMORY.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
