"""The training loop: steps, checkpoints, resuming, several processes.

A run writes into a folder: `state.pt`, from which it resumes; `metrics.jsonl`; `last.safetensors`,
a checkpoint with the averaged weights. With the same recipe, data and number of processes, a run
that was interrupted and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ois_client.contract.errors import CheckpointError, InvalidInput, OutputError
from ois_network.attention import EquationAttention, set_attention_ops
from ois_network.checkpoints.checkpoint import save_checkpoint
from ois_network.initialise import altered, build
from ois_network.network import OISNetwork
from ois_network.training.config import TrainConfig, plan_stages
from ois_network.training.data.batches import Batch, BatchPlan, Consecutive
from ois_network.training.data.sources import Source
from ois_network.training.evaluate import evaluate
from ois_network.training.forward import EncodedBatch
from ois_network.training.optimise import (
    Average,
    build_optimisers,
    freeze,
    learning_rate,
    set_learning_rate,
)
from ois_network.training.processes import Processes, stop_signal
from ois_network.training.progress import Progress
from ois_network.training.rounds import batch_losses
from ois_network.training.state import STATE_FILE, RunState, load_state

WEIGHTS_FILE = "last.safetensors"

#: The features of a batch, from the cache of a frozen encoder.
Features = Callable[[OISNetwork, Batch], EncodedBatch]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options that do not change the result. data: the name of the data, for reports."""

    folder: Path
    resume: bool = False
    workers: int = 1
    threads: int = 0  # 0: PyTorch's default
    data: str = "procedural scenes"
    stop_after: int = 0  # steps; 0: run to the end
    say: Callable[[str], None] = print


class _Step(nn.Module):
    """The loss of a batch as a module, because data parallelism wraps modules."""

    def __init__(self, network: OISNetwork, config: TrainConfig, features: Features | None) -> None:
        super().__init__()
        self.network, self.config, self.features = network, config, features

    def forward(
        self, batch: Batch, rounds: int, rng: np.random.Generator, coarse: bool
    ) -> tuple[Tensor, dict[str, float]]:
        encoded = self.features(self.network, batch) if self.features else None
        losses = batch_losses(self.network, batch, self.config, rounds, rng, encoded, coarse=coarse)
        return (
            losses.total,
            losses.values,
        )  # a tuple, because data parallelism searches it for tensors


def train(
    config: TrainConfig,
    source: Source,
    options: RunOptions,
    *,
    start: OISNetwork | None = None,
    features: Features | None = None,
) -> Path:
    """Train, and return the path of the checkpoint.

    start: the network to start from; the recipe's `network_changes` are applied to it. Raises
    `InvalidInput` if the recipe does not suit the data or `start`, `OutputError` if a file cannot
    be written, `CheckpointError` if the run in the folder cannot be resumed or the loss is not
    finite, and `KeyboardInterrupt` if it was interrupted, after saving.
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
        self.setting = {
            "data": options.data, "images": len(source), "processes": processes.world
        }  # fmt: skip
        if start is None and not options.resume and {"encoder", "depth_head"} & {*config.frozen}:
            raise InvalidInput(
                f"the recipe freezes {', '.join(config.frozen)}, which would stay random; load "
                "their weights (--weights depth_anything_v2_vitb.pth, or a checkpoint)"
            )
        if start is None:
            network = build(config.shape(), seed=config.seed)
        elif config.network_changes:
            made = altered(start, config.network_changes, seed=config.seed)
            network = made.network
            if processes.rank == 0 and not options.resume:
                options.say(f"the network is changed by the recipe: {made.summary}")
        else:
            network = start
        self.network = network.to(processes.device).train()
        if processes.device.type == "cpu":
            # On a CPU the backward pass of PyTorch's fused kernel is slower than plain products.
            set_attention_ops(self.network, EquationAttention())
        freeze(self.network, config)
        self.optimisers = build_optimisers(self.network, config.optimiser)
        self.average = Average(self.network, config.ema) if config.ema else None
        self.plan = BatchPlan(
            source, network.config, config, self.stages, processes.rank, processes.world
        )
        # "reason: name" -> how often: in all processes, and in this one since the last report
        self.skipped: Counter[str] = Counter()
        self.lately_skipped: Counter[str] = Counter()
        self.done = self._resume() if options.resume else self._fresh()
        self.step_module = processes.wrap(
            _Step(self.network, config, features),
            # A batch without depth, or without clicks, leaves parameters without a gradient;
            # so does an attention without its order maps.
            unused="depth_head" not in config.frozen
            or not all(stage.objects for stage in config.stages)
            or (network.config.order_attention and not network.config.order),
        )

    def run(self) -> Path:
        config, options = self.config, self.options
        lead = self.processes.rank == 0
        say = options.say if lead else (lambda _text: None)
        last = min(self.total, options.stop_after or self.total)
        progress = Progress(options.folder, self.total, config.log_every, say, self.done) \
            if lead else None  # fmt: skip
        saved = time.monotonic()
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
                if stopping or self.done % config.log_every == 0 or self.done == last:
                    self._report_skipped(say)
                late = time.monotonic() - saved > 60 * config.checkpoint_minutes
                if lead and (stopping or late or self.done == last):
                    self._save()
                    saved = time.monotonic()
                if stopping:
                    say(f"interrupted; step {self.done} is saved, continue with --resume")
                    raise KeyboardInterrupt
        if progress is not None:
            if self.skipped:
                progress.write({"step": self.done, "skipped": dict(self.skipped)})
            progress.close()
        return options.folder / WEIGHTS_FILE

    def _report_skipped(self, say: Callable[[str], None]) -> None:
        """Add up what all processes skipped since the last report, and report new pairs."""
        before = len(self.skipped)
        self.skipped += self.processes.total(self.lately_skipped)
        self.lately_skipped = Counter()
        if len(self.skipped) > before:
            say(f"{len(self.skipped)} pairs could not be used so far, the last of them "
                f"{list(self.skipped)[-1]}")  # fmt: skip

    def _step(self, batches: Iterator[Batch], rate: float) -> dict[str, float]:
        config = self.config
        set_learning_rate(self.optimisers, rate)
        values: dict[str, float] = {}
        stage = self.plan.stage(self.done)
        for part in range(config.accumulate):
            batch = next(batches).to(self.processes.device)
            self.lately_skipped.update(batch.skipped)
            # The same number of rounds in all processes, because they wait for each other.
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
                f"{folder} already contains a training run; continue it with --resume, or choose "
                "another folder"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot create {folder}: {error}; choose another folder") from error
        return 0

    def _resume(self) -> int:
        state = load_state(self.options.folder)
        differences = state.config.differences(self.config) + [
            f"{name}: {state.setting.get(name)}, {value}"
            for name, value in self.setting.items()
            if state.setting.get(name) != value
        ]
        if differences:
            raise CheckpointError(
                f"the run in {self.options.folder} was started with other settings (there, now): "
                f"{'; '.join(differences[:6])}. Resume it with its recipe, data and number of "
                f"processes, or start a run in a new folder with --weights "
                f"{self.options.folder / WEIGHTS_FILE}"
            )
        try:
            self.network.load_state_dict(state.network)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.options.folder} contains a run of a network with other dimensions: "
                f"{str(error).splitlines()[1].strip()} ... Resume it with the version that wrote it"
            ) from None
        for optimiser, content in zip(self.optimisers, state.optimisers, strict=True):
            optimiser.load_state_dict(content)
        if self.average is not None and state.average is not None:
            self.average.weights = {
                name: value.to(self.processes.device) for name, value in state.average.items()
            }
        self.skipped = Counter(state.skipped)
        return state.step

    def _save(self) -> None:
        RunState(
            self.config,
            self.setting,
            self.done,
            self.network.state_dict(),
            self.average.weights if self.average is not None else None,
            [optimiser.state_dict() for optimiser in self.optimisers],
            dict(self.skipped),
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
        """A copy of the network with the averaged weights, in eval mode."""
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
            f"validation scenes at {longest} px: 1-mIoU {quality.miou1:.3f}  "
            f"5-mIoU {quality.miou5:.3f}  ({quality.objects} objects)"
        )
        if progress is not None:
            progress.write(
                {"step": self.done, "longest": longest, "miou1": quality.miou1,
                 "miou5": quality.miou5, "curve": list(quality.curve)}
            )  # fmt: skip


def _quiet_worker(_number: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides when to stop
