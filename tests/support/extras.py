"""What the extras of pyproject.toml install."""

from __future__ import annotations

import tomllib

from packaging.requirements import Requirement

from support.documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(extra: str, python: str = "3.11") -> dict[str, Requirement]:
    """What the extra installs on Linux, extras within extras included."""
    found: dict[str, Requirement] = {}
    for text in EXTRAS[extra]:
        need = Requirement(text)
        if need.name == "ois-deploy":
            for inner in need.extras:
                found |= requirements(inner, python)
        elif need.marker is None or need.marker.evaluate(
            {"python_version": python, "sys_platform": "linux"}
        ):
            found[need.name] = need
    return found
