"""Every folder of code is a room: few modules, and no prefix that stands in for a subfolder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 20  # modules, without __init__
CODE = ("client", "runtime", "network", "export", "benchmarks", "cli", "examples", "tests")


def folders() -> list[Path]:
    """Folders with Python or JavaScript in them."""
    found = {
        path.parent
        for top in CODE
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".js") and "__pycache__" not in path.parts
    }
    return sorted(found)


def modules(folder: Path) -> list[str]:
    """Names without what every test has in common; `__init__` and `conftest` are no modules."""
    names = [path.stem for path in folder.iterdir() if path.suffix in (".py", ".js")]
    return [name.removeprefix("test_") for name in names if name not in ("__init__", "conftest")]


@pytest.mark.parametrize("folder", folders(), ids=lambda f: f.relative_to(ROOT).as_posix())
def test_a_folder_is_a_room(folder: Path) -> None:
    names = modules(folder)
    assert len(names) <= LARGEST, sorted(names)
    prefixes = Counter(name.split("_")[0] for name in names)
    assert {prefix: count for prefix, count in prefixes.items() if count > 2} == {}


def test_no_test_imports_from_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] in (["from"], ["import"]):
                assert not words[1].split(".")[-1].startswith("test_"), f"{path}: {line}"
