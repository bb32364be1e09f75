"""Measures the kernels on this GPU when an engine opens, where there are no measurements yet.

`choice.MEASURED` has rows of the GPUs that were measured with `ois bench kernels`. For any other
GPU or network, a click's attention is timed in both ways, with few tiles and within `BUDGET_S`,
and compared with the equations. The result is kept in the user's cache, in a file of its own for
each GPU, version of PyTorch and Triton, and version of the kernels.

*Not run on a GPU yet.* Tests run it on a CPU, in Triton's interpreter, with an invented stopwatch.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from ois_client.contract.clicks import SLOTS
from ois_client.contract.errors import OISError, ParityError
from ois_network.config import NetworkConfig
from ois_network.kernels.cached import cache_folder, gpu_name
from ois_network.kernels.choice import (
    Blocks,
    Measurement,
    knows,
    read_measurements,
    write_measurements,
)
from ois_network.kernels.click_attention import TOLERANCE, ClickAttention
from ois_network.kernels.operations import can_use_kernels, capability_of
from ois_network.kernels.slots import Call

#: Microseconds of a function's work on the device.
Stopwatch = Callable[[Callable[[], object]], float]

#: After so long no further tile or number of objects is tried.
BUDGET_S = 0.8
#: One object, as in most clicks, and several. Between them the kernels run if both are faster.
OBJECTS = (1, 8)
#: How many times the programs of a launch should fill the GPU. All of one tile are one compilation.
_FILLS = (2, 1, 4)
_TILES = ((64, 64), (16, 64))

_LOG = logging.getLogger(__name__)


def measurements_here(
    config: NetworkConfig,
    dtype: torch.dtype,
    device: torch.device,
    stopwatch: Stopwatch,
    folder: Path | None = None,
) -> list[Measurement]:
    """The measurements that decide what this GPU runs: committed, cached, or measured now.

    folder: the cache; default `cache_folder()`. Empty where the kernels cannot run or something
    failed, which the log then says: PyTorch's attention always works.
    """
    capability = capability_of(device)
    if not capability or dtype not in TOLERANCE or not can_use_kernels(config):
        return []
    side = config.longest // config.patch
    call = Call(1, SLOTS, config.prompt_dim, side**2, config.fusion_heads, dtype)
    committed = read_measurements().get(capability, [])
    if knows(committed, call):
        return committed
    folder = folder or cache_folder()
    file = None if folder is None else folder / f"kernels-{capability}-{_digest(device)}.json"
    cached = _read(file, capability)
    if knows(cached, call):
        return cached
    begin = time.perf_counter()
    try:
        rows = measure(call, (side, side), device, stopwatch)
    except Exception as error:  # a missing compiler, a full GPU, wrong results
        _LOG.warning("the attention kernels are not used on this GPU: %s", error)
        return []
    _LOG.info("measured the attention kernels in %.1f s", time.perf_counter() - begin)
    _keep(file, capability, device, rows)
    return [*cached, *rows]


def measure(
    call: Call,
    grid: tuple[int, int],
    device: torch.device,
    stopwatch: Stopwatch,
    budget_s: float = BUDGET_S,
) -> list[Measurement]:
    """Measure `call` with each number of `OBJECTS`, for `budget_s` or until one row is complete.

    grid: (gh, gw), whose product is the number of keys. Raises `ParityError` if a kernel is wrong.
    """
    deadline = time.perf_counter() + budget_s
    rows: list[Measurement] = []
    for objects in OBJECTS:
        if rows and time.perf_counter() > deadline:
            break
        rows.append(_measure(call, objects, grid, device, stopwatch, deadline))
    return rows


def candidates(call: Call, multiprocessors: int) -> list[Blocks]:
    """Few tiles, the most promising first, each with several numbers of shares."""
    found = []
    for queries, keys in _TILES:
        programs = call.objects * call.heads * -(-call.queries // queries)
        most = -(-call.keys // keys)
        # One share less, because the share of the touched patches is launched with them.
        shares = [fill * multiprocessors // programs - 1 for fill in _FILLS]
        shares = [max(1, min(most, count)) for count in shares]
        found += [Blocks(queries, keys, count) for count in dict.fromkeys(shares)]
    return found


def _measure(
    call: Call,
    objects: int,
    grid: tuple[int, int],
    device: torch.device,
    stopwatch: Stopwatch,
    deadline: float,
) -> Measurement:
    call = Call(objects, call.queries, call.channels, call.keys, call.heads, call.dtype)
    click = ClickAttention.random(call, grid, device)
    exact = click.exact()
    torch_us = stopwatch(click.by_torch)
    best: tuple[float, Blocks] | None = None
    for blocks in candidates(call, _multiprocessors(device)):
        if best is not None and time.perf_counter() > deadline:
            break
        run = partial(click.by_kernels, blocks)
        error = click.error(run(), exact)
        # Written so that NaN, which compares false with everything, does not pass.
        if not error <= TOLERANCE[call.dtype]:
            raise ParityError(
                f"they differ from the equations by {error:.1e} with {blocks} at {call}; expected "
                f"at most {TOLERANCE[call.dtype]:.0e}"
            )
        taken = stopwatch(run)
        if best is None or taken < best[0]:
            best = taken, blocks
    if best is None:
        raise ParityError(f"there is no tile to try for {call}")
    return Measurement(call, best[0], torch_us, best[1])


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "triton": version("triton")}


def _digest(device: torch.device) -> str:
    """Changes with everything that a measurement depends on."""
    parts = [gpu_name(device), *_versions().values()]
    sources = [Path(__file__).with_name(name) for name in ("language.py", "launch.py")]
    text = "\n".join([*parts, *(source.read_text(encoding="utf-8") for source in sources)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(file: Path | None, capability: str) -> list[Measurement]:
    if file is None or not file.is_file():
        return []
    try:
        return read_measurements(file).get(capability, [])
    except OISError:  # damaged: measured again, and replaced
        file.unlink(missing_ok=True)
        return []


def _keep(
    file: Path | None, capability: str, device: torch.device, rows: Sequence[Measurement]
) -> None:
    """Write the rows. If that is impossible, the next engine measures again."""
    if file is None:
        return
    about = {
        "gpu": gpu_name(device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_measurements(capability, about, rows, file)
    except (OSError, OISError) as error:
        _LOG.warning("could not keep the measurements of the attention kernels: %s", error)
