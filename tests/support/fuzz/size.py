"""How much is fuzzed: a short form in every test run, a long one on request.

    OIS_FUZZ_REQUESTS=50000 OIS_FUZZ_SEED=7 pytest tests/fuzz

The number is for each service or function of a test. The same seed gives the same requests.
`OIS_FUZZ_RESULT=fuzz.json` writes what was counted to a file; each test adds its part.
`OIS_FUZZ_RATE=50` makes at most so many requests per second.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ois_benchmarks import machine
from ois_benchmarks.results import read_json, write_result

REQUESTS, SEED = "OIS_FUZZ_REQUESTS", "OIS_FUZZ_SEED"
RESULT, RATE = "OIS_FUZZ_RESULT", "OIS_FUZZ_RATE"


def requests(short: int) -> int:
    """How many to make. short: unless `$OIS_FUZZ_REQUESTS` says."""
    return int(os.environ.get(REQUESTS) or short)


def is_long() -> bool:
    return bool(os.environ.get(REQUESTS))


def dice_for(name: str) -> random.Random:
    """A generator for one test. Its name is part of the seed, so that tests do not depend on
    each other.
    """
    return random.Random(f"{os.environ.get(SEED, '0')} {name}")


def paced(count: int) -> Iterator[int]:
    """0 to `count` - 1, not faster than `$OIS_FUZZ_RATE` per second."""
    pause_s = 1 / float(os.environ.get(RATE) or "inf")
    for number in range(count):
        began = time.monotonic()
        yield number
        if (left_s := pause_s - (time.monotonic() - began)) > 0:
            time.sleep(left_s)


def report(name: str, counted: Mapping[str, Any]) -> None:
    """Add what a test has counted to the result, if one is asked for."""
    print(f"{name}: {json.dumps(counted)}")
    if not (place := os.environ.get(RESULT)):
        return
    path = Path(place)
    document = read_json(path) if path.exists() else {}
    services = {**document.get("services", {}), name: dict(counted)}
    write_result(
        path,
        {
            "benchmark": "fuzz",
            "seed": os.environ.get(SEED, "0"),
            "requests": sum(one["requests"] for one in services.values()),
            "machine": machine.describe(),
            "services": services,
        },
    )
