"""Where the kernels are used: where they were measured to be faster, and only there.

`measured.json` lies beside this file. `python -m ois_benchmarks.gpu.kernels --write` fills it on a
GPU; an architecture (compute capability) without an entry keeps PyTorch's attention.

    {"schema": 1, "devices": {"9.0": {"gpu": ..., "date": ..., "versions": {...}, "rows": [
        {"objects": 1, "queries": 48, "channels": 256, "keys": 5329, "heads": 8,
         "dtype": "float16", "kernels_us": ..., "torch_us": ...,
         "blocks": {"queries": 64, "keys": 64, "splits": 33, ...}}]}}}

Both times are of all the masked attention of one click, from the same inputs, M, B, K and V
written out where PyTorch needs them written out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ois_client.contract.errors import InvalidInput, OutputError
from ois_network.kernels.slots import Call

MEASURED = Path(__file__).with_name("measured.json")
SCHEMA = 1
#: The kernels must take at most this share of PyTorch's time: less is noise, or not worth it.
WORTH = 0.95
#: A measurement speaks for calls with up to this many times fewer or more keys.
KEYS_RANGE = 2.0


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the work is cut. queries, keys: of a tile, powers of two from 16 up; splits: shares
    of the keys; skip: tiles that no slot sees are left out (a test a tile, worth it only where
    such tiles are many); warps and stages: as Triton means them.
    """

    queries: int
    keys: int
    splits: int
    skip: bool = False
    warps: int = 4
    stages: int = 3

    def __post_init__(self) -> None:
        for name, size, least in (("queries", self.queries, 16), ("keys", self.keys, 32)):
            if size < least or size & (size - 1):
                raise ValueError(f"got a tile of {size} {name}; expected {least}, {2 * least} ...")
        if self.splits < 1:
            raise ValueError(f"got {self.splits} splits; expected at least 1")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One size, timed both ways, microseconds; blocks: the best that were tried."""

    call: Call
    kernels_us: float
    torch_us: float
    blocks: Blocks

    @property
    def worth(self) -> bool:
        return self.kernels_us <= WORTH * self.torch_us

    def to_dict(self) -> dict[str, Any]:
        call = asdict(self.call) | {"dtype": _name(self.call.dtype)}
        times = {"kernels_us": self.kernels_us, "torch_us": self.torch_us}
        return call | times | {"blocks": asdict(self.blocks)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Measurement:
        fields = dict(data)
        blocks = Blocks(**fields.pop("blocks"))
        kernels_us, torch_us = float(fields.pop("kernels_us")), float(fields.pop("torch_us"))
        dtype = getattr(torch, fields.pop("dtype"))
        return cls(Call(**fields, dtype=dtype), kernels_us, torch_us, blocks)


def read_measurements(path: Path = MEASURED) -> dict[str, list[Measurement]]:
    """Compute capability ("9.0") -> what was measured there. Raises `InvalidInput`."""
    return {capability: _rows(device) for capability, device in _read(path)["devices"].items()}


def write_measurements(
    capability: str, about: dict[str, Any], rows: Sequence[Measurement], path: Path = MEASURED
) -> None:
    """Add to what is known of one compute capability; calls measured again replace what was.

    about: gpu, date, commit, versions. What another GPU of that capability measured goes: it would
    not be known any more which row is whose. Raises `InvalidInput` when the file is damaged and
    `OutputError` when it cannot be written.
    """
    table = _read(path)
    before = table["devices"].get(capability, {"rows": []})
    again = {row.call for row in rows}
    kept = [row for row in _rows(before) if row.call not in again]
    if before.get("gpu") != about.get("gpu"):
        kept = []
    _write(table, capability, about, [*kept, *rows], path)


def forget_measurements(capability: str, dtype: torch.dtype, path: Path = MEASURED) -> None:
    """Whatever says that kernels are faster in `dtype`: they were found to be wrong.

    Raises as `write_measurements` does.
    """
    table = _read(path)
    if (before := table["devices"].get(capability)) is not None:
        kept = [row for row in _rows(before) if row.call.dtype != dtype]
        _write(table, capability, before, kept, path)


def _rows(device: dict[str, Any]) -> list[Measurement]:
    return [Measurement.from_dict(row) for row in device["rows"]]


def _write(
    table: dict[str, Any],
    capability: str,
    about: dict[str, Any],
    rows: Sequence[Measurement],
    path: Path,
) -> None:
    table["devices"][capability] = about | {"rows": [row.to_dict() for row in rows]}
    part = path.with_suffix(".part")
    try:
        # In one step: a benchmark that a time limit ends may be writing just then.
        part.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["schema"] != SCHEMA:
            raise ValueError(f"its schema is {table['schema']}, expected {SCHEMA}")
        for device in table["devices"].values():
            _rows(device)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{path} is no table of kernel measurements: {error!r}. Restore it, or write it anew "
            "with python -m ois_benchmarks.gpu.kernels --write"
        ) from error
    return table


def choose(rows: Sequence[Measurement], call: Call) -> Blocks | None:
    """The blocks to run the kernels with, or None for PyTorch's attention.

    Of measurements of this network and dtype, those with the nearest number of keys speak. The
    two whose numbers of objects enclose the call's must both be worth it; outside of what was
    measured nothing is.
    """
    alike = [row for row in rows if _shape(row.call) == _shape(call)]
    near = [row for row in alike if 1 / KEYS_RANGE <= row.call.keys / call.keys <= KEYS_RANGE]
    if not near:
        return None
    keys = min((row.call.keys for row in near), key=lambda k: (abs(k - call.keys), k))
    line = sorted((r for r in near if r.call.keys == keys), key=lambda r: r.call.objects)
    below = [row for row in line if row.call.objects <= call.objects]
    above = [row for row in line if row.call.objects >= call.objects]
    if not below or not above or not (below[-1].worth and above[0].worth):
        return None
    return above[0].blocks


def _shape(call: Call) -> tuple[object, ...]:
    return call.queries, call.channels, call.heads, call.dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
