"""The measurements that decide where the kernels run: only where they are faster than PyTorch.

`ois bench kernels --write` measures on a GPU and writes `measured.json` in this folder. For a
network and GPU without rows there, the torch engine measures when it opens (`here.py`).

    {"schema": 1, "devices": {"9.0": {"gpu": ..., "date": ..., "versions": {...}, "rows": [
        {"objects": 1, "queries": 48, "channels": 256, "keys": 5329, "heads": 8,
         "dtype": "fp16", "kernels_us": ..., "torch_us": ...,
         "blocks": {"queries": 64, "keys": 64, "splits": 33, ...}}]}}}

Both times cover all masked attention of one click, from the same inputs. PyTorch's time includes
computing M, B, K and V as tensors where it needs them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ois_client.contract.errors import InvalidInput
from ois_client.contract.files import write_file
from ois_network.kernels.slots import Call

MEASURED = Path(__file__).with_name("measured.json")
SCHEMA = 1
#: The kernels are used if they take at most this share of PyTorch's time; more may be noise.
WORTH = 0.95
#: A measurement applies to calls with up to this many times fewer or more keys.
KEYS_RANGE = 2.0
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
#: Spellings in tables of earlier versions.
_FORMER_DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the kernels divide their work.

    queries, keys: the size of a tile, powers of two, at least 16 and 32. splits: into how many
    shares the keys are divided. skip: leave out tiles to which no slot may attend; the test costs
    time, so it pays only if there are many such tiles. warps, stages: see Triton.
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
                raise ValueError(
                    f"got a tile of {size} {name}; expected {least}, {2 * least}, {4 * least}, ..."
                )
        if self.splits < 1:
            raise ValueError(f"got {self.splits} splits; expected at least 1")


@dataclass(frozen=True, slots=True)
class Measurement:
    """The times of both ways for one size, in microseconds. blocks: the fastest that were tried."""

    call: Call
    kernels_us: float
    torch_us: float
    blocks: Blocks

    @property
    def worth(self) -> bool:
        """Whether the kernels are faster by more than the noise."""
        return self.kernels_us <= WORTH * self.torch_us

    def to_dict(self) -> dict[str, Any]:
        """One row of the table, as plain JSON types."""
        call = asdict(self.call) | {"dtype": _dtype_name(self.call.dtype)}
        times = {"kernels_us": self.kernels_us, "torch_us": self.torch_us}
        return call | times | {"blocks": asdict(self.blocks)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Measurement:
        """The inverse of `to_dict`. Raises `KeyError`, `TypeError` or `ValueError` if damaged."""
        fields = dict(data)
        blocks = Blocks(**fields.pop("blocks"))
        kernels_us, torch_us = float(fields.pop("kernels_us")), float(fields.pop("torch_us"))
        dtype = fields.pop("dtype")
        call = Call(**fields, dtype=_DTYPES[_FORMER_DTYPES.get(dtype, dtype)])
        return cls(call, kernels_us, torch_us, blocks)


def read_measurements(path: Path = MEASURED) -> dict[str, list[Measurement]]:
    """Compute capability ("9.0") -> its measurements. Raises `InvalidInput` if damaged."""
    return {capability: _rows(device) for capability, device in _read(path)["devices"].items()}


def write_measurements(
    capability: str, about: dict[str, Any], rows: Sequence[Measurement], path: Path = MEASURED
) -> None:
    """Add measurements of one compute capability; a call that was measured before is replaced.

    about: gpu, date, commit, versions. Rows that another GPU of this capability measured are
    removed, because `about` describes only one GPU. The file is made if it does not exist. Raises
    `InvalidInput` if the file is damaged and `OutputError` if it cannot be written.
    """
    empty: dict[str, Any] = {"schema": SCHEMA, "devices": {}}
    table = _read(path) if path.exists() else empty
    before = table["devices"].get(capability, {"rows": []})
    again = {row.call for row in rows}
    kept = [row for row in _rows(before) if row.call not in again]
    if before.get("gpu") != about.get("gpu"):
        kept = []
    _write(table, capability, about, [*kept, *rows], path)


def forget_measurements(capability: str, dtype: torch.dtype, path: Path = MEASURED) -> None:
    """Remove the measurements in `dtype`, because the kernels gave wrong results.

    Raises the errors of `write_measurements`.
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
    write_file(path, (json.dumps(table, indent=1) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if table["schema"] != SCHEMA:
            raise ValueError(f"its schema is {table['schema']}, expected {SCHEMA}")
        for device in table["devices"].values():
            _rows(device)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{path} is not a table of kernel measurements: {error!r}. Restore it, or write it "
            "again with `ois bench kernels --write`"
        ) from error
    return table


def choose(rows: Sequence[Measurement], call: Call) -> Blocks | None:
    """The blocks with which the kernels should run `call`, or None for PyTorch's attention.

    Among the measurements of this network and dtype, those with the nearest number of keys decide.
    The kernels must be faster with the nearest smaller and the nearest larger number of objects;
    they are not used outside of the measured range.
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


def knows(rows: Sequence[Measurement], call: Call) -> bool:
    """Whether `rows` decide about `call`, one way or the other, for some number of objects."""
    return any(
        _shape(row.call) == _shape(call)
        and 1 / KEYS_RANGE <= row.call.keys / call.keys <= KEYS_RANGE
        for row in rows
    )


def _shape(call: Call) -> tuple[object, ...]:
    return call.queries, call.channels, call.heads, call.dtype


def _dtype_name(dtype: torch.dtype) -> str:
    return next(name for name, known in _DTYPES.items() if known == dtype)
