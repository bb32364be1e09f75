"""The file that `ois bench spc` and `ois bench sat` write, and `ois bench report` reads.

    LatencyResult                 one run: definition of the work, machine, rows
    └── LatencyRow                       one contestant on one picture, measured or failed
        ├── Identity              what ran: code, engine, weights, input size
        ├── Cost                  parameters, and FLOPs and bytes per image and per click
        ├── encode: Timing        once per image; None if the network has no such step
        └── figures: Figure       one per definition, see `Definition`

Times are in seconds, sizes in bytes, arithmetic in FLOPs (2 x multiply-adds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ois_benchmarks.results import read_json
from ois_benchmarks.timing import Timing
from ois_client.contract.errors import InvalidInput

SCHEMA = 1
#: Contestants in results and scripts of earlier versions.
_FORMER_NAMES = {"ois-openvino-f32": "ois-openvino-fp32", "openvino-f32": "openvino-fp32"}


class Benchmark(StrEnum):
    """The command that wrote the file."""

    SPC = "spc"
    SAT = "sat"


class Definition(StrEnum):
    """What the seconds of a figure measure. meaning: the sentence to print beside them."""

    benchmark: Benchmark
    meaning: str

    CLICK = (
        "click",
        Benchmark.SPC,
        "seconds per click, in process: from the clicks so far to the mask at the picture's own "
        "size, as an array in memory; encoding the image is not included",
    )
    LOOP = (
        "loop",
        Benchmark.SPC,
        "seconds per click of the whole evaluation loop, as RITM, SimpleClick and SegNext print "
        "it: decoding the file, encoding, robot user, clicks and IoU, divided by the clicks",
    )
    SESSION = (
        "session",
        Benchmark.SPC,
        "seconds per click that a user waits through a server: request, queue, network, mask "
        "encoding, reply and its decoding",
    )
    SEQUENTIAL = (
        "sequential",
        Benchmark.SAT,
        "seconds to encode one picture and answer 256 single clicks on a 16x16 grid one after "
        "the other, each with a mask at the picture's own size (SegNext's protocol)",
    )
    BATCHED = (
        "batched",
        Benchmark.SAT,
        "the same 256 clicks, with several objects per call of the click network",
    )
    AUTOMATIC = (
        "automatic",
        Benchmark.SAT,
        "seconds of SAM's automatic mask generator on the same grid, one point per batch: three "
        "masks per point, scores, duplicates removed; more work per click than the other two",
    )

    def __new__(cls, value: str, benchmark: Benchmark, meaning: str) -> Definition:
        member = str.__new__(cls, value)
        member._value_ = value
        member.benchmark = benchmark
        member.meaning = meaning
        return member

    @classmethod
    def parse(cls, name: str) -> Definition:
        """Raises `KeyError` for an unknown name."""
        return cls.__members__[name.upper()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What ran.

    label: for tables and charts. family: "ois" or the peer's network, for colours.
    engine: library, version and precision. precision: "fp32", "bf16" or "fp16".
    source: where the code comes from, with its version or commit.
    weights: "random", the name of their file, or "none" for a method without weights.
    sha256: of that file, or of the engines; "" if there is none.
    input_size: (width, height) in pixels that the network computes on, padding included.
    warnings: what readers of the row must know.
    """

    label: str
    family: str
    engine: str
    precision: str
    source: str
    weights: str
    sha256: str
    input_size: tuple[int, int]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Work that is counted, not timed.

    parameters: elements of all parameters. encode_flops: per image; 0 if the network does not
    encode separately. click_flops: per click on one object. FLOPs are 2 x multiply-adds of matrix
    products and convolutions. encode_bytes, click_bytes: what these operations read and write if
    every operand crosses memory once. Operations that engines fuse (norms, activations, residuals,
    resizing) are not included.
    """

    parameters: int
    encode_flops: int
    encode_bytes: int
    click_flops: int
    click_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number and how it was measured.

    seconds: per click (SPC), or for the encode and all 256 clicks (SAT). low_s, high_s: the 95 %
    interval; both equal `seconds` if it was measured once. clicks: clicks that were made.
    projected: `seconds` is computed from fewer clicks than the definition says. batch: objects per
    call. parts_s: the parts of `seconds`, where they are known. stages_s: of one call through a
    server, medians, see `stages.py`. timing: the repetitions.
    """

    seconds: float
    low_s: float
    high_s: float
    clicks: int
    projected: bool = False
    batch: int = 1
    parts_s: Mapping[str, float] = field(default_factory=dict)
    stages_s: Mapping[str, float] = field(default_factory=dict)
    timing: Timing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One contestant on one picture of width x height pixels.

    failed: why there are no figures; None if there are. absent: it failed because something is
    missing (a checkout, a package, a GPU), not because of an error.
    """

    contestant: str
    width: int
    height: int
    failed: str | None = None
    absent: bool = False
    identity: Identity | None = None
    cost: Cost | None = None
    encode: Timing | None = None
    figures: Mapping[Definition, Figure] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    noisy: bool = False

    @property
    def key(self) -> tuple[str, int, int]:
        return self.contestant, self.width, self.height

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without keys for what was not measured."""
        fields = asdict(self)
        return {name: value for name, value in fields.items() if value not in (None, {})}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> LatencyRow:
        """Raises `KeyError`, `TypeError` or `ValueError` if `fields` are not a row."""
        given = dict(fields)
        given["contestant"] = present_name(given["contestant"])
        if given.get("identity") is not None:
            identity = dict(given["identity"])
            width, height = identity["input_size"]
            identity["input_size"] = int(width), int(height)
            identity["warnings"] = tuple(identity.get("warnings", ()))
            given["identity"] = Identity(**identity)
        if given.get("cost") is not None:
            given["cost"] = Cost(**given["cost"])
        if given.get("encode") is not None:
            given["encode"] = _timing(given["encode"])
        given["figures"] = {
            Definition.parse(name): _figure(figure)
            for name, figure in given.get("figures", {}).items()
        }
        return cls(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyResult:
    """One run.

    settings: what must be equal before a run is resumed in a file (pictures, repeats, threads,
    device). machine: as from `machine.describe`, with the threads and the allocator.
    """

    benchmark: Benchmark
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    rows: tuple[LatencyRow, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        definitions = [each for each in Definition if each.benchmark is self.benchmark]
        return {
            "latency_result": SCHEMA,
            "benchmark": self.benchmark,
            "definitions": {each.value: each.meaning for each in definitions},
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "rows": [row.to_dict() for row in self.rows],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> LatencyResult:
        """Raises `InvalidInput` for another kind of document or another schema."""
        if not isinstance(fields, Mapping) or fields.get("latency_result") != SCHEMA:
            raise InvalidInput(
                f"not a result of `ois bench spc` or `ois bench sat` of schema {SCHEMA}; measure "
                "again with this version, or name another file"
            )
        try:
            return cls(
                benchmark=Benchmark(fields["benchmark"]),
                settings=fields["settings"],
                machine=fields["machine"],
                rows=tuple(LatencyRow.from_dict(row) for row in fields["rows"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(
                f"the result is damaged ({type(error).__name__}: {error}); measure again"
            ) from error


def read_result(path: Path) -> LatencyResult:
    """Read a result. Raises `InvalidInput` if the file cannot be read or holds something else."""
    fields = read_json(path)
    try:
        return LatencyResult.from_dict(fields)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def present_name(contestant: str) -> str:
    """The present name of a contestant that may have a name of an earlier version."""
    return _FORMER_NAMES.get(contestant, contestant)


def _timing(fields: Mapping[str, Any]) -> Timing:
    return Timing(**{**fields, "samples_s": tuple(fields["samples_s"])})


def _figure(fields: Mapping[str, Any]) -> Figure:
    given = dict(fields)
    if given.get("timing") is not None:
        given["timing"] = _timing(given["timing"])
    return Figure(**given)
