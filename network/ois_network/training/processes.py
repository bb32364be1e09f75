"""One process, or many under `torchrun`: PyTorch's own data parallelism, nothing else."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's place among those that train together."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    @contextlib.contextmanager
    def join(cls) -> Iterator[Processes]:
        """`torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one process."""
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
            # All leave together: a process whose peer is gone already can abort on its way out.
            torch.distributed.barrier()
        finally:
            torch.distributed.destroy_process_group()

    def wrap(self, module: nn.Module, *, unused: bool = False) -> nn.Module:
        """`module`, with gradients averaged over the processes.

        unused: some parameters that want a gradient may get none.
        """
        if self.world == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            module, device_ids=ids, find_unused_parameters=unused
        )

    def total(self, counts: Counter[str]) -> Counter[str]:
        """The sum over all processes (all must ask)."""
        if self.world == 1:
            return counts
        parts: list[Counter[str]] = [Counter()] * self.world
        torch.distributed.all_gather_object(parts, counts)
        return sum(parts, Counter())

    def any(self, flag: bool) -> bool:
        """True where any process says so (all must ask)."""
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(value)
        return bool(value.item())
