"""The processes that train: one, or many under `torchrun`; their signals and their memory.

Several processes use PyTorch's own data parallelism.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train together. rank: its number. world: how many there are."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    @contextlib.contextmanager
    def join(cls) -> Iterator[Processes]:
        """Join the processes that `torchrun` started; without `torchrun` there is one."""
        cuda = torch.cuda.is_available()
        world = int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if world == 1:
            yield cls(0, 1, device)
            return
        if cuda:
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
        try:
            yield cls(torch.distributed.get_rank(), world, device)
            # All leave together: a process whose peer has already left can abort when it leaves.
            torch.distributed.barrier()
        finally:
            torch.distributed.destroy_process_group()

    def wrap(self, module: nn.Module, *, unused: bool = False) -> nn.Module:
        """`module` with its gradients averaged over the processes.

        unused: some trained parameters may not take part in every step.
        """
        if self.world == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            module, device_ids=ids, find_unused_parameters=unused
        )

    def total(self, counts: Counter[str]) -> Counter[str]:
        """The sum over all processes. Every process must call this."""
        if self.world == 1:
            return counts
        parts: list[Counter[str]] = [Counter()] * self.world
        torch.distributed.all_gather_object(parts, counts)
        return sum(parts, Counter())

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process. Every process must call this."""
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(value)
        return bool(value.item())


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Let Ctrl-C and SIGTERM set an event, so that a run can stop between two steps.

    A second signal raises `KeyboardInterrupt` at once. A launcher may forward one Ctrl-C several
    times, so signals within three seconds of the first count as one. Outside of the main thread
    signals are left alone.
    """
    event = threading.Event()
    first = 0.0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if event.is_set() and time.monotonic() - first > 3:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system after each tensor.

    Without it page faults take up to 80 % of a training step on a CPU. Nothing happens with other
    C libraries. The setting holds for the whole process, so it is for programs that train (such as
    `ois train`), not for library code.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # mallopt's parameter numbers
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 64 * 2**20)
