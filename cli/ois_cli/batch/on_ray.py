"""Ray's workers do the work of a batch: each opens the engines once and takes items in turn.

    items ─► Ray Data, a few items per task ─► workers, one per device ─► results

This process keeps the input, the journal and the result. A worker that dies is started again, and
its task is repeated. Workers use the same paths as this process, so several machines need a
shared file system or an object store.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ois_cli.batch.crew import Crew, Engines, Item, Result, Work, here
from ois_cli.output import as_ois_error, progress
from ois_client.contract.errors import EngineError, IncompatibleServer, InvalidInput, OISError
from ois_client.contract.transport import ModelInfo

#: The value of `--ray` for a cluster on this machine that ends with the run.
LOCAL = "local"
#: The value of `--ray` for the cluster that this machine belongs to.
AUTO = "auto"

#: For items and results on their way. Images and features do not pass through it.
_OBJECT_STORE_BYTES = 200 * 2**20
#: So many items of one worker are repeated if it dies.
_ITEMS_PER_TASK = 16
#: A task is given up after so many deaths of its worker: an image may be what kills it.
_RETRIES = 5
_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class RayPlan:
    """Where and how many.

    address: `LOCAL`, `AUTO`, or HOST:PORT of a cluster's head. workers: None is one per GPU, or
    one per `threads` cores. on_gpu: workers use a GPU each. threads: cores per worker.
    Raises `InvalidInput` if the address has another form.
    """

    address: str
    workers: int | None = None
    on_gpu: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if self.address not in (LOCAL, AUTO) and not (host and port.isdigit()):
            raise InvalidInput(
                f"got --ray {self.address}; expected {LOCAL} for workers on this machine, {AUTO} "
                "for the cluster that this machine belongs to, or HOST:PORT of a cluster's head"
            )

    @property
    def on_this_machine(self) -> bool:
        return self.address == LOCAL or self.address.rpartition(":")[0] in _LOOPBACK


def crew_of(
    work: Work[Item, Result], plan: RayPlan | None
) -> AbstractContextManager[Crew[Item, Result]]:
    """Workers of Ray, or without a plan this process."""
    return here(work) if plan is None else on_ray(work, plan)


@contextmanager
def on_ray(work: Work[Item, Result], plan: RayPlan) -> Iterator[Crew[Item, Result]]:
    """Workers of a Ray cluster do the work.

    Raises `EngineError` if there is no such cluster or it has no GPU, `InvalidInput` if it has
    fewer cores or GPUs than the workers need, and what opening the engines raises in a worker.
    """
    with cluster(plan):
        import ray

        workers, share = _shares(ray.cluster_resources(), plan)
        start = _Start(work)
        with progress("a worker loads the engines"):
            answer = ray.get(ray.remote(_describe).options(**share).remote(start))
        if isinstance(answer, OISError):
            raise answer
        yield Crew(answer, partial(_results, start, answer, workers, share))


@contextmanager
def cluster(plan: RayPlan) -> Iterator[str]:
    """Start or join a cluster for the block -> its address, HOST:PORT.

    A cluster that is started here listens on the loopback address only, has no dashboard, reports
    nothing to anyone, lets only those in who have its token, and ends with the block. Raises
    `EngineError` if there is no such cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Its C++ core logs notes for its developers as errors, to stderr. What fails is raised here.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if plan.address == LOCAL and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        # Who reaches a cluster can run code in it. This token lasts for the run; without one, Ray
        # writes one to the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    if plan.on_this_machine:
        # Read when Ray is imported. Otherwise it replaces 127.0.0.1 by an address of the network.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Ray's workers would give way to every other process of the machine.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  its spelling
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's about itself
        if plan.address == LOCAL:
            folder = tempfile.mkdtemp(prefix="ois-ray-")
            stack.callback(_remove, Path(folder))
            quiet |= {
                "num_cpus": None if plan.workers is None else plan.workers * plan.threads,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "_node_ip_address": _LOOPBACK[0],
                "_temp_dir": folder,
            }
        stack.callback(ray.shutdown)
        with progress("starting Ray"):
            try:
                ray.init(address=plan.address, **quiet)
            except Exception as error:  # Ray raises a plain one if a start takes too long
                raise EngineError(_not_joined(plan, error)) from error
        yield ray.get_runtime_context().gcs_address


def _remove(folder: Path) -> None:
    """Remove the folder, into which processes of Ray can write a last time while they end."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)


def _not_joined(plan: RayPlan, error: Exception) -> str:
    if plan.address == LOCAL:
        return f"Ray did not start on this machine: {error}. Try again when it is less busy"
    return (
        f"no Ray cluster at {plan.address}: {error}. Start one with `ray start --head`, or use "
        f"--ray {LOCAL}. If it requires a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    )


def _shares(resources: Mapping[str, float], plan: RayPlan) -> tuple[int, dict[str, float]]:
    """The number of workers, and what each takes of the cluster, as Ray's options.

    resources: of the cluster, by Ray's names.
    """
    cores, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if plan.on_gpu and not gpus:
        raise EngineError("the Ray cluster has no GPU; leave the GPU out, or add a node with one")
    workers = plan.workers or (gpus if plan.on_gpu else max(1, cores // plan.threads))
    # A worker that waited for cores the cluster does not have would wait for ever.
    if workers * plan.threads > cores:
        raise InvalidInput(
            f"got {workers} workers with {plan.threads} threads each; the Ray cluster has {cores} "
            "cores. Use fewer workers (--workers) or threads"
        )
    share: dict[str, float] = {"num_cpus": plan.threads}
    if plan.on_gpu:
        share["num_gpus"] = 1 / math.ceil(workers / gpus)
    return workers, share


def _results(
    start: _Start[Item, Result],
    info: ModelInfo,
    workers: int,
    share: Mapping[str, Any],
    items: Sequence[Item],
) -> Iterator[Result]:
    import ray.data

    if not items:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"item": pickle.dumps(item)} for item in items]
    per_task = max(1, min(_ITEMS_PER_TASK, len(rows) // (4 * workers)))
    data = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / per_task))
    done = data.map_batches(
        _Worker,
        fn_constructor_args=(start, info),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers),
        ray_remote_args_fn=partial(dict, max_task_retries=_RETRIES),
        **share,
    )
    try:
        for row in done.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, OISError):
                raise result
            yield result
    except ray.exceptions.RayActorError as error:
        raise EngineError(
            f"a worker died {_RETRIES + 1} times at the same items: {error}. It may need more "
            "memory (fewer --workers), or an image may be the cause: run the same command without "
            "--ray to see which"
        ) from error


@dataclass(frozen=True, slots=True)
class _Start(Work[Item, Result]):
    """The work, to be started where this process is: in its folder, with its variables."""

    work: Work[Item, Result]
    folder: str = field(default_factory=os.getcwd)
    variables: dict[str, str] = field(
        default_factory=lambda: {k: v for k, v in os.environ.items() if k.startswith("OIS_")}
    )

    @contextmanager
    def open(self) -> Iterator[Engines[Item, Result]]:
        os.environ.update(self.variables)
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise InvalidInput(
                f"a worker cannot use the folder {self.folder}: {error.strerror}. All machines of "
                "the cluster need the same files at the same paths"
            ) from error
        with self.work.open() as engines:
            yield engines


def _describe(start: _Start[Any, Any]) -> ModelInfo | OISError:
    """The model, or the error that a worker meets when it opens the engines."""
    try:
        with start.open() as engines:
            return engines.info
    except Exception as error:
        known = as_ois_error(error)
        if known is None:
            raise
        return known


class _Worker:
    """An actor of Ray Data. Keeps the engines open until Ray ends it."""

    def __init__(self, start: _Start[Any, Any], expected: ModelInfo) -> None:
        self._start, self._expected = start, expected
        self._stack = ExitStack()
        self._engines: Engines[Any, Any] | None = None

    def __call__(self, batch: Any) -> dict[str, list[bytes]]:
        """batch: an Arrow table of items. An error that ends the run is the last result."""
        results: list[Any] = []
        try:
            engines = self._engines = self._engines or self._opened()
            for item in batch["item"].to_pylist():
                results += engines.process(pickle.loads(item))
        except Exception as error:
            known = as_ois_error(error)
            if known is None:
                raise  # a defect: Ray passes it on with its traceback
            results.append(known)
        return {"result": [pickle.dumps(one) for one in results]}

    def _opened(self) -> Engines[Any, Any]:
        engines: Engines[Any, Any] = self._stack.enter_context(self._start.open())
        found, expected = engines.info.model_sha256, self._expected.model_sha256
        if found != expected:
            raise IncompatibleServer(
                f"a worker has the model {found[:12]}…, another one {expected[:12]}…. All machines "
                "of the cluster need the same engines"
            )
        return engines
