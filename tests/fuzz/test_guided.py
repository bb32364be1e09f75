"""Readers under inputs that a coverage-guided fuzzer has found (`support/fuzz/guided.py`).

The committed inputs are read in every run, and damaged ones made from them. Where atheris is
installed, it looks for new ones. A long run, of which benchmarks/results/fuzz-guided.json is one:

    OIS_FUZZ_REQUESTS=200000 OIS_FUZZ_RESULT=fuzz.json pytest tests/fuzz/test_guided.py -k new_code
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.documents import ROOT
from support.fuzz.damage import damaged_bytes
from support.fuzz.size import SEED, dice_for, is_long, report, requests
from support.fuzz.targets import CORPUS, TARGETS

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: pip install atheris",
)
#: Those that are run under atheris in every test run; the others only in the long form.
SHORT = ("image", "message", "json")


def inputs(name: str) -> list[bytes]:
    found = sorted((CORPUS / name).iterdir()) if (CORPUS / name).is_dir() else []
    return [*TARGETS[name].seeds, *(path.read_bytes() for path in found)]


def test_every_folder_of_inputs_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_and_damaged_ones_are_read_or_refused(name: str) -> None:
    target, known, dice = TARGETS[name], inputs(name), dice_for(f"guided {name}")
    target.read(known[0])
    for data in known:
        with contextlib.suppress(*target.errors):
            target.read(data)
    for number in range(requests(150)):
        data = damaged_bytes(dice, dice.choice(known), known)
        try:
            target.read(data)
        except target.errors:
            continue
        except Exception as error:
            raise AssertionError(f"{name} {number}: {error!r} for {data!r:.2000}") from error


@needs_atheris
@pytest.mark.parametrize("name", [one for one in TARGETS if is_long() or one in SHORT])
def test_new_code_is_reached_without_an_untyped_error(name: str, tmp_path: Path) -> None:
    paths = [str(ROOT / "tests"), *filter(None, sys.path)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "support.fuzz.guided", name),
            f"-runs={requests(1000)}",
            f"-seed={1 + int(os.environ.get(SEED, '0'))}",
            f"-artifact_prefix={tmp_path}/",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    end = re.search(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+)", done.stderr)
    assert end, done.stderr[-3000:]
    runs, edges, features = map(int, end.groups())
    report(
        f"guided, {name}",
        {"requests": runs, "untyped": 0, "edges": edges, "features": features},
    )
