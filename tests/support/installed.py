"""A Python with the base install alone, made of this environment's packages without the extras.

A folder of links to what `pip install ois-deploy` installs, and nothing else: commands then meet
packages that are really absent, for imports as for `find_spec` and metadata.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from support.documents import ROOT

ROOMS = ("cli", "benchmarks", "export", "runtime", "network", "client")


def base_site(folder: Path) -> Path:
    """Link the base install's distributions into `folder`."""
    folder.mkdir()
    waiting, seen = ["ois-deploy"], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        for text in found.requires or ():
            need = Requirement(text)
            extras = [""] if name == "ois-deploy" else ["", "grpc"]  # tritonclient[grpc]
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(need.name)
        _link(found, folder)
    return folder


def _link(found: metadata.Distribution, folder: Path) -> None:
    tops = {path.parts[0] for path in found.files or () if path.parts[0] not in ("..", "/")}
    for top in tops - {"__pycache__"}:  # of an editable install, only the metadata
        source = Path(str(found.locate_file(top)))
        if source.exists() and not (folder / top).exists():
            (folder / top).symlink_to(source)


def python(site: Path, code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` there, with the packages of this checkout."""
    path = os.pathsep.join([*(str(ROOT / room) for room in ROOMS), str(site)])
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
