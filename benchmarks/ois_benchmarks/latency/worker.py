"""Measure one contestant on one picture, in its own process: reads a job, writes a row.

    python -m ois_benchmarks.latency.worker JOB.json ROW.json

With a process per contestant, peak memory is that of one contestant, threads and allocators of
different libraries do not interfere, and peers may have packages of the same name. The row goes to
a file, because peers may print to stdout.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ois_benchmarks.contestants.base import Contestant, NotHere, Place
from ois_benchmarks.contestants.code import failure_of
from ois_benchmarks.contestants.registry import open_contestant
from ois_benchmarks.latency.result import Benchmark, LatencyRow
from ois_benchmarks.latency.sat import measure_sat
from ois_benchmarks.latency.spc import measure_spc
from ois_benchmarks.latency.work import Work
from ois_benchmarks.machine import peak_memory_bytes
from ois_client.contract.errors import OISError

_PATHS = ("scratch", "checkout", "weights", "engines", "plans")


def job_of(benchmark: Benchmark, contestant: str, place: Place, work: Work) -> dict[str, Any]:
    """The argument of `run`, JSON-ready."""
    paths = {name: str(value) for name in _PATHS if (value := getattr(place, name)) is not None}
    return {
        "benchmark": benchmark,
        "contestant": contestant,
        "place": {"threads": place.threads, "device": place.device, **paths},
        "work": asdict(work),
    }


def run(job: Mapping[str, Any]) -> LatencyRow:
    """Measure. If the contestant fails, the row holds the reason; nothing is raised."""
    work = Work(**job["work"])
    place = Place(**{name: _value(name, given) for name, given in job["place"].items()})
    name = job["contestant"]
    empty = LatencyRow(contestant=name, width=work.width, height=work.height)
    try:
        with closing(open_contestant(name, place)) as contestant:
            return _measured(Benchmark(job["benchmark"]), contestant, empty, work)
    except NotHere as error:
        return _failed(empty, str(error), absent=True)
    except OISError as error:
        return _failed(empty, f"{error} ({error.code})")
    except MemoryError:
        return _failed(empty, "not enough memory")
    except Exception as error:  # a peer's code may raise anything
        traceback.print_exc()
        return _failed(empty, failure_of(error))


def _value(name: str, given: Any) -> Any:
    return Path(given) if name in _PATHS else given


def _measured(
    benchmark: Benchmark, contestant: Contestant, empty: LatencyRow, work: Work
) -> LatencyRow:
    measure = measure_spc if benchmark is Benchmark.SPC else measure_sat
    encode, figures = measure(contestant, work)
    # Read before counting, which runs everything once more and may need more memory.
    peak = None if contestant.served else peak_memory_bytes()
    timings = [encode, *(figure.timing for figure in figures.values())]
    return LatencyRow(
        contestant=empty.contestant,
        width=empty.width,
        height=empty.height,
        identity=contestant.identity,
        cost=contestant.cost(),
        encode=encode,
        figures=figures,
        peak_memory_bytes=peak,
        noisy=any(timing.noisy for timing in timings if timing is not None),
    )


def _failed(empty: LatencyRow, reason: str, *, absent: bool = False) -> LatencyRow:
    return LatencyRow(
        contestant=empty.contestant,
        width=empty.width,
        height=empty.height,
        failed=reason,
        absent=absent,
    )


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def main(argv: list[str]) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job, place = (Path(word) for word in argv)
    row = run(json.loads(job.read_text()))
    place.write_text(json.dumps(row.to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
