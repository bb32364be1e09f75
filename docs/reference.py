"""Builds the API reference, HTML from docstrings: `make docs` or `reference.py FOLDER`."""

from __future__ import annotations

import pkgutil
import sys
import warnings
from importlib import import_module
from pathlib import Path
from unittest.mock import MagicMock

PACKAGES = ("ois_client", "ois_runtime", "ois_export", "ois_network")


def build(folder: Path, packages: tuple[str, ...] = PACKAGES) -> None:
    """Write one page per module of `packages` to `folder`."""
    import pdoc

    # Only the Python of a Triton server has this module; the pages need no more than its name.
    sys.modules.setdefault("triton_python_backend_utils", MagicMock())
    modules = list(packages)
    for name in packages:
        package = import_module(name)
        if not hasattr(package, "__all__"):
            continue
        # pdoc reads a module's dictionary, which lacks the names that are imported on first use.
        for exported in package.__all__:
            setattr(package, exported, getattr(package, exported))
        # It documents the modules inside a package with `__all__` only if they are named.
        modules += [each.name for each in pkgutil.iter_modules(package.__path__, f"{name}.")]
    pdoc.render.configure(show_source=False)
    with warnings.catch_warnings():
        # About urllib3's annotations, and about torch, which runs lscpu when it is imported.
        warnings.filterwarnings("ignore", "Error parsing type annotation|Suppressed execution")
        pdoc.pdoc(*modules, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
