"""Reading result files for a report: every kind of result that `ois bench` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ois_benchmarks.ablation.result import table_of
from ois_benchmarks.latency.result import LatencyResult
from ois_benchmarks.load.result import SCHEMA as LOAD_SCHEMA
from ois_benchmarks.load.result import StepResult
from ois_benchmarks.report.gpu import engine_tables, kernel_tables
from ois_benchmarks.report.page import MEDIA_TYPES
from ois_benchmarks.results import read_json
from ois_benchmarks.roofline import Ceilings
from ois_client.contract.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Source:
    """One result file: its name, its JSON document, and the machine it was measured on.

    folder: where it lies, for the picture that it names; None if it is not a file.
    """

    name: str
    document: Mapping[str, Any] = field(repr=False)
    folder: Path | None = None

    @property
    def machine(self) -> Mapping[str, Any]:
        found = self.document.get("machine") or self.document.get("measured_on") or {}
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True, slots=True)
class LatencyRun:
    """A result of `ois bench spc` or `sat`."""

    source: Source
    result: LatencyResult


@dataclass(frozen=True, slots=True)
class LoadRun:
    """A result of `ois bench load`."""

    source: Source
    steps: Sequence[StepResult]


@dataclass(slots=True)
class Inputs:
    """Results by kind, in the order of the files.

    figures: pictures of `ois show`. skipped: name and reason of each file in a folder that could
    not be used.
    """

    latency: list[LatencyRun] = field(default_factory=list)
    engines: list[Source] = field(default_factory=list)
    quality: list[Source] = field(default_factory=list)
    ablations: list[Source] = field(default_factory=list)
    load: list[LoadRun] = field(default_factory=list)
    overhead: list[Source] = field(default_factory=list)
    gpu_engine: list[Source] = field(default_factory=list)
    kernels: list[Source] = field(default_factory=list)
    ceilings: list[Ceilings] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def read_inputs(paths: Sequence[Path]) -> Inputs:
    """Read result files, and the results and figures in folders.

    A picture that is named is a figure; in folders, those whose names begin with "figure-". Raises
    `InvalidInput` if a named file is not a result, or if there is no result at all. In folders,
    other files are skipped, and results of `_ELSEWHERE` are ignored.
    """
    found = Inputs()
    for path in paths:
        if path.is_dir():
            found.figures += [
                file for file in sorted(path.glob(_FIGURES)) if file.suffix.lower() in MEDIA_TYPES
            ]
            for file in sorted(path.glob("*.json")):
                try:
                    document = read_json(file)
                    if _kind(document) not in _ELSEWHERE:
                        _add(found, file, document)
                except InvalidInput as error:
                    found.skipped.append(f"{file.name}: {error}")
        elif path.suffix.lower() in MEDIA_TYPES:
            found.figures.append(path)
        else:
            _add(found, path, read_json(path))
    if not found.sources:
        skipped = f" ({'; '.join(found.skipped)})" if found.skipped else ""
        raise InvalidInput(
            f"no result in {', '.join(map(str, paths))}{skipped}; name the JSON files that "
            "`ois bench spc`, `sat`, `quality`, `load` or `engines` wrote, or their folder"
        )
    return found


def describe_machine(machine: Mapping[str, Any]) -> str:
    """The processor, cores, threads and memory of a result's machine as one phrase."""
    parts = [
        str(machine.get("gpu", "")),
        str(machine.get("cpu", "a machine that is not described")),
        f"{machine['cores']} cores" if "cores" in machine else "",
        f"{machine['threads']} threads" if "threads" in machine else "",
        f"{machine['memory_gib']} GiB" if "memory_gib" in machine else "",
    ]
    return ", ".join(filter(None, parts))


def _kind(document: Any) -> str:
    return str(document.get("benchmark") if isinstance(document, dict) else None)


def _add(found: Inputs, path: Path, document: Any) -> None:
    kind = _kind(document)
    add = _KINDS.get(kind)
    if add is None:
        raise InvalidInput(
            f"{path} cannot be part of a report: got the benchmark {kind!r}; expected one of "
            f"{', '.join(_KINDS)}"
        )
    source = Source(path.name, document, path.parent)
    try:
        add(found, source)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"the result {path} is damaged ({type(error).__name__}: {error}); measure it again"
        ) from error
    found.sources.append(source)


def _latency(found: Inputs, source: Source) -> None:
    found.latency.append(LatencyRun(source, LatencyResult.from_dict(source.document)))


def _load(found: Inputs, source: Source) -> None:
    if source.document["schema"] != LOAD_SCHEMA:
        raise InvalidInput(
            f"got schema {source.document['schema']}; expected {LOAD_SCHEMA}, measure it again"
        )
    steps = [StepResult.from_dict(step) for step in source.document["steps"]]
    found.load.append(LoadRun(source, steps))


def _engines(found: Inputs, source: Source) -> None:
    for row in source.document["rows"]:
        if "failed" not in row:
            row["click"]["median_s"], row["encode"]["median_s"]
    found.engines.append(source)


def _quality(found: Inputs, source: Source) -> None:
    source.document["curve"][0]["value"], source.document["model"]["network"]
    found.quality.append(source)


def _ablation(found: Inputs, source: Source) -> None:
    table_of(source.document)
    source.document["checkpoint"]
    found.ablations.append(source)


def _overhead(found: Inputs, source: Source) -> None:
    for row in source.document["single"].values():
        row["median_ms"]
    found.overhead.append(source)


def _gpu_engine(found: Inputs, source: Source) -> None:
    list(engine_tables(source.document))
    found.gpu_engine.append(source)


def _kernels(found: Inputs, source: Source) -> None:
    list(kernel_tables(source.document))
    found.kernels.append(source)


def _ceilings(found: Inputs, source: Source) -> None:
    found.ceilings.append(Ceilings.from_dict(source.document))


_FIGURES = "figure-*"
#: Results that have their own table and are not part of the report.
_ELSEWHERE = (
    *("batch", "boxes", "capacity", "capacity-check", "chaos", "cold-start", "depth", "fuzz"),
    *("gpu-compiled", "gpu-profile", "page", "progressive", "serving-paths", "soak"),
    "region",
    "switched-off",
)

_KINDS: dict[str, Callable[[Inputs, Source], None]] = {
    "spc": _latency,
    "sat": _latency,
    "engines": _engines,
    "quality": _quality,
    "ablation": _ablation,
    "load": _load,
    "serving-overhead": _overhead,
    "gpu-engine": _gpu_engine,
    "kernels": _kernels,
    "ceilings": _ceilings,
}
