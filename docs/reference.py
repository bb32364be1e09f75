"""The API reference as HTML, from docstrings: `make docs`, or `python docs/reference.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ois_client", "ois_runtime", "ois_export", "ois_network")


def build(folder: Path, packages: tuple[str, ...] = PACKAGES) -> None:
    import pdoc

    import ois_client

    # pdoc reads a module's dictionary, where a name that is imported on demand is not yet.
    for name in ois_client.__all__:
        setattr(ois_client, name, getattr(ois_client, name))
    pdoc.render.configure(show_source=False)
    pdoc.pdoc(*packages, *_inside_triton(packages), output_directory=folder)


def _inside_triton(packages: tuple[str, ...]) -> list[str]:
    """Modules that only the Python of a Triton server can import: they have no page."""
    return [
        f"!{path.parent.name}.{path.stem}"
        for path in sorted(ROOT.glob("*/ois_*/*.py"))
        if path.parent.name in packages
        and "\nimport triton_python_backend_utils" in path.read_text(encoding="utf-8")
    ]


if __name__ == "__main__":
    build(Path(sys.argv[1]))
