"""docs/security.md names only tests that exist, and the limits that the code has."""

from __future__ import annotations

import ast
import dataclasses
import math
import re

import pytest

from ois_runtime.serving.configuration import ServingOptions
from support.documents import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
#: `tests/folder/test_file.py::test_name`
TESTS = sorted(set(re.findall(r"(tests/[\w/]+\.py)::(\w+)", TEXT)))
#: Options that say what a server does, and limit nothing.
NO_LIMITS = {
    field.name for field in dataclasses.fields(ServingOptions) if str(field.type) == "str"
} | {"cache_bytes", "longest"}


def rows(title: str) -> list[list[str]]:
    """The cells of the first table after the heading `title`, without its head."""
    section = TEXT.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize(("file", "name"), TESTS, ids=[name for _, name in TESTS])
def test_every_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_threat_names_its_test_or_says_that_there_is_none() -> None:
    threats = rows("Threats")
    assert len(threats) > 20
    for threat, _, test in threats:
        assert "tests/" in test or test.startswith("none"), threat


def test_the_limits_are_those_of_the_code() -> None:
    listed = {row[0].strip("`"): row[1] for row in rows("Limits")}
    for field in dataclasses.fields(ServingOptions):
        if field.name not in NO_LIMITS:
            assert listed[field.name] == shown(field.name, getattr(ServingOptions(), field.name))


def shown(name: str, value: float) -> str:
    if value == math.inf:
        return "none"
    if name.endswith("_bytes"):
        return f"{value / 2**20:g} MiB"
    return f"{value:,}"
