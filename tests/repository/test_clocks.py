"""No deadline, age or pause depends on the clock of the day, which can jump: only dates that are
written into files do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from support.documents import ROOT

#: Packages whose programs wait for something. Dates of results are in benchmarks/.
CODE = ("client", "runtime", "cli", "docker", "triton_models", "examples")
#: file -> why it asks for the date.
DATES = {
    "cli/ois_cli/label.py": "date_created of COCO",
    "cli/ois_cli/annotating/coco.py": "date_created of COCO",
}
_OF_THE_DAY = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}


def calls(tree: ast.AST) -> Iterator[str]:
    """`time.time` and the like, wherever they are named."""
    for node in ast.walk(tree):
        named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if named and node.attr in _OF_THE_DAY.get(node.value.id, ()):
            yield f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"time.{one.name}" for one in node.names if one.name in _OF_THE_DAY["time"])


def test_only_dates_in_files_come_from_the_clock_of_the_day() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): sorted(set(named))
        for top in CODE
        for path in sorted((ROOT / top).rglob("*.py"))
        if (named := list(calls(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert {name: calls for name, calls in found.items() if name not in DATES} == {}
