"""How much is fuzzed: a short form in every test run, a long one on request.

    OIS_FUZZ_REQUESTS=50000 OIS_FUZZ_SEED=7 pytest tests/fuzz

The number is for each service or function of a test. The same seed gives the same requests.
"""

from __future__ import annotations

import os
import random

REQUESTS, SEED = "OIS_FUZZ_REQUESTS", "OIS_FUZZ_SEED"


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
