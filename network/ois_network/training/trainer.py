"""The training loop: steps, checkpoints, resume, several processes.

A run lives in a folder: `state.pt` to go on from, `metrics.jsonl`, and `last.safetensors`,
the (averaged) weights as a checkpoint. With the same recipe, data and number of processes a
run that was interrupted and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn

from ois_client.errors import CheckpointError, OutputError
from ois_network.attention import EquationAttention, set_attention_ops
from ois_network.checkpoint import save_checkpoint
from ois_network.config import preset
from ois_network.initialise import build
from ois_network.network import OISNetwork
from ois_network.training.batches import Batch, BatchPlan, Consecutive, Source
from ois_network.training.config import Stage, TrainConfig
from ois_network.training.evaluate import evaluate
from ois_network.training.forward import EncodedBatch
from ois_network.training.optimise import (
    Average,
    build_optimisers,
    freeze,
    learning_rate,
    set_learning_rate,
)
from ois_network.training.processes import Processes
from ois_network.training.progress import Progress
from ois_network.training.rounds import batch_losses
from ois_network.training.state import STATE_FILE, RunState, load_state

WEIGHTS_FILE = "last.safetensors"

#: Features of a batch's images if they are already known (a frozen encoder's cache).
Features = Callable[[OISNetwork, Batch], EncodedBatch]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What does not change the result."""

    folder: Path
    resume: bool = False
    workers: int = 1
    threads: int = 0  # 0: PyTorch's own choice
    data: str = "procedural scenes"  # for the checkpoint's notes
    stop_after: int = 0  # steps; 0: run to the end
    say: Callable[[str], None] = print


def plan_stages(
    config: TrainConfig, epoch_length: int, world: int
) -> tuple[list[tuple[int, Stage]], int]:
    """-> (first step, stage) of each stage, and the total number of steps."""
    stages, first = [], 0
    for stage in config.stages:
        steps = stage.steps
        if not steps:
            images = stage.images * config.accumulate * world
            steps = math.ceil(stage.epochs * max(epoch_length, 1) / images)
        stages.append((first, stage))
        first += steps
    return stages, first


class _Step(nn.Module):
    """Loss of a batch as a module, which is what data parallelism wraps."""

    def __init__(self, network: OISNetwork, config: TrainConfig, features: Features | None) -> None:
        super().__init__()
        self.network, self.config, self.features = network, config, features

    def forward(
        self, batch: Batch, rounds: int, rng: np.random.Generator, coarse: bool
    ) -> tuple[Tensor, dict[str, float]]:
        encoded = self.features(self.network, batch) if self.features else None
        losses = batch_losses(self.network, batch, self.config, rounds, rng, encoded, coarse=coarse)
        return losses.total, losses.values  # a tuple: data parallelism looks for tensors in it


def train(
    config: TrainConfig,
    source: Source,
    options: RunOptions,
    *,
    start: OISNetwork | None = None,
    features: Features | None = None,
) -> Path:
    """Train and return the checkpoint's path. `start`: the network to begin with.

    Raises `OutputError` when a file cannot be written, `CheckpointError` for a folder whose
    run does not fit, and `KeyboardInterrupt` after saving when interrupted.
    """
    with Processes.join() as processes:
        return _Run(config, source, options, start, features, processes).run()


class _Run:
    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        options: RunOptions,
        start: OISNetwork | None,
        features: Features | None,
        processes: Processes,
    ) -> None:
        self.config, self.options, self.processes = config, options, processes
        if options.threads:
            torch.set_num_threads(options.threads)
        torch.manual_seed(config.seed)
        self.stages, self.total = plan_stages(config, len(source), processes.world)
        network = start or build(preset(config.network), seed=config.seed)
        self.network = network.to(processes.device).train()
        if processes.device.type == "cpu":
            # PyTorch's fused kernel is slower backwards than the plain products on a CPU.
            set_attention_ops(self.network, EquationAttention())
        freeze(self.network, config)
        self.optimisers = build_optimisers(self.network, config.optimiser)
        self.average = Average(self.network, config.ema) if config.ema else None
        self.plan = BatchPlan(
            source, network.config, config, self.stages, processes.rank, processes.world
        )
        self.skipped: Counter[str] = Counter()  # "reason: name" -> how often
        self.done = self._resume() if options.resume else self._fresh()
        self.step_module = processes.wrap(
            _Step(self.network, config, features),
            unused=(not config.loss.depth_weight and "depth_head" not in config.frozen)
            or not all(stage.objects for stage in config.stages),
        )

    def run(self) -> Path:
        config, options = self.config, self.options
        lead = self.processes.rank == 0
        say = options.say if lead else (lambda _text: None)
        last = min(self.total, options.stop_after or self.total)
        progress = Progress(options.folder, self.total, config.log_every, say, self.done) \
            if lead else None  # fmt: skip
        saved = time.monotonic()
        reported = 0
        with stop_signal() as stop:
            batches = self._batches(last)
            while self.done < last:
                rate = learning_rate(config.optimiser, self.done, self.total)
                values = self._step(batches, rate)
                self.done += 1
                if self.average is not None:
                    self.average.update(self.network, self.done)
                if progress is not None:
                    progress.step(self.done, values, rate)
                if lead and config.evaluate_every and self.done % config.evaluate_every == 0:
                    self._evaluate(progress, say)
                stopping = self.processes.any(stop.is_set())
                late = time.monotonic() - saved > 60 * config.checkpoint_minutes
                if lead and (stopping or late or self.done == last):
                    self._save()
                    saved = time.monotonic()
                if progress is not None and len(self.skipped) > reported:
                    reported = len(self.skipped)
                    say(f"{reported} pairs could not be used so far, the last one "
                        f"{list(self.skipped)[-1]}")  # fmt: skip
                if stopping:
                    say(f"interrupted; step {self.done} is saved, go on with --resume")
                    raise KeyboardInterrupt
        if progress is not None:
            if self.skipped:
                progress.write({"step": self.done, "skipped": dict(self.skipped)})
            progress.close()
        return options.folder / WEIGHTS_FILE

    def _step(self, batches: Iterator[Batch], rate: float) -> dict[str, float]:
        config = self.config
        set_learning_rate(self.optimisers, rate)
        values: dict[str, float] = {}
        stage = self.plan.stage(self.done)
        for part in range(config.accumulate):
            batch = next(batches).to(self.processes.device)
            self.skipped.update(batch.skipped)
            # All processes do the same number of rounds, or they would wait for the longest.
            most = config.clicks.rounds if stage.rounds < 0 else stage.rounds
            chance = np.random.default_rng([config.seed, self.done, 4, part])
            rounds = int(chance.integers(0, most + 1))
            rng = np.random.default_rng([config.seed, self.done, 5, part, self.processes.rank])
            with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=config.bf16):
                total, found = self.step_module(batch, rounds, rng, stage.coarse)
            if not math.isfinite(float(total.detach())):
                raise CheckpointError(
                    f"the loss became {float(total.detach())} at step {self.done + 1} "
                    f"({', '.join(batch.names)}); lower the learning rate, or resume from the "
                    f"last checkpoint in {self.options.folder}"
                )
            (total / config.accumulate).backward()
            for name, value in found.items():
                values[name] = values.get(name, 0.0) + value / config.accumulate
        if config.optimiser.clip_norm:
            trained = [p for p in self.network.parameters() if p.grad is not None]
            nn.utils.clip_grad_norm_(trained, config.optimiser.clip_norm)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return values

    def _batches(self, last: int) -> Iterator[Batch]:
        per_step = self.config.accumulate
        workers = self.options.workers
        loader = torch.utils.data.DataLoader(
            self.plan,
            batch_size=None,
            sampler=Consecutive(self.done * per_step, last * per_step),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_quiet_worker if workers else None,
        )
        return iter(loader)

    def _fresh(self) -> int:
        folder = self.options.folder
        if (folder / STATE_FILE).exists():
            raise OutputError(
                f"{folder} already holds a training run; go on with --resume, or choose another "
                "folder"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"could not create {folder}: {error}") from error
        return 0

    def _resume(self) -> int:
        state = load_state(self.options.folder)
        if state.config.network != self.config.network or len(state.optimisers) != len(
            self.optimisers
        ):
            raise CheckpointError(
                f"{self.options.folder} holds a run of the network {state.config.network} with "
                f"the optimiser {state.config.optimiser.kind}; the recipe says "
                f"{self.config.network} with {self.config.optimiser.kind}"
            )
        try:
            self.network.load_state_dict(state.network)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.options.folder} holds a run of a network of other dimensions: "
                f"{str(error).splitlines()[1].strip()} ..."
            ) from None
        for optimiser, content in zip(self.optimisers, state.optimisers, strict=True):
            optimiser.load_state_dict(content)
        if self.average is not None and state.average is not None:
            self.average.weights = {
                name: value.to(self.processes.device) for name, value in state.average.items()
            }
        return state.step

    def _save(self) -> None:
        RunState(
            self.config,
            self.done,
            self.network.state_dict(),
            self.average.weights if self.average is not None else None,
            [optimiser.state_dict() for optimiser in self.optimisers],
        ).save(self.options.folder)
        save_checkpoint(
            self._averaged(),
            self.options.folder / WEIGHTS_FILE,
            trained=True,
            notes={
                "recipe": self.config.to_dict(),
                "steps": self.done,
                "of": self.total,
                "data": self.options.data,
            },
        )

    def _averaged(self) -> OISNetwork:
        """A copy of the network with the averaged weights."""
        network = OISNetwork(self.network.config)
        weights = self.average.weights if self.average is not None else self.network.state_dict()
        network.load_state_dict(weights)
        return network.to(self.processes.device).eval()

    def _evaluate(self, progress: Progress | None, say: Callable[[str], None]) -> None:
        longest = self.plan.stage(self.done - 1).longest
        quality = evaluate(
            self._averaged(), self.config.evaluate_scenes, longest=longest, bf16=self.config.bf16
        )
        say(
            f"held-out scenes at {longest} px: 1-mIoU {quality.miou1:.3f}  "
            f"5-mIoU {quality.miou5:.3f}  ({quality.objects} objects)"
        )
        if progress is not None:
            progress.write(
                {"step": self.done, "longest": longest, "miou1": quality.miou1,
                 "miou5": quality.miou5, "curve": list(quality.curve)}
            )  # fmt: skip


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event instead of killing a step halfway; a second is at once.

    A launcher passes one Ctrl-C on several times: what comes within seconds counts as one.
    """
    event = threading.Event()
    first = 0.0

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if event.is_set() and time.monotonic() - first > 3:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _quiet_worker(_number: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
