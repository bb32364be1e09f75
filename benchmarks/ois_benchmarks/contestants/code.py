"""Find a peer's own code, a package from PyPI or the user's clone, and its version."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path

from ois_benchmarks.contestants.base import NotHere
from ois_benchmarks.contestants.standins import supply_missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a peer's code comes from.

    repository: on GitHub. commit: the version that the adapter was written for. folder: inside the
    clone, to put on the import path. module: the package in it. pypi: (distribution, version,
    module) if it is on PyPI; a clone takes precedence. needs: module -> distribution, for imports
    that must be installed. light: libraries that `standins` can replace.
    """

    repository: str
    commit: str
    module: str
    folder: str = "."
    pypi: tuple[str, str, str] | None = None
    needs: dict[str, str] = field(default_factory=dict)
    light: tuple[str, ...] = ()


#: How this process's peer deviates from what its adapter was written for, see `failure_of`.
_deviations: list[str] = []


@dataclass(frozen=True, slots=True)
class PeerCode:
    """module: its import name. text: source and version, for the row. warnings: deviations."""

    module: str
    text: str
    warnings: tuple[str, ...]


def open_code(source: Source, checkout: Path | None) -> PeerCode:
    """Make the code importable in this process, which can then serve only this peer.

    Packages of different peers have the same names (`isegm`, `segment_anything`). Raises `NotHere`
    if the code or one of its needs is missing.
    """
    for module, distribution in source.needs.items():
        if util.find_spec(module) is None:
            raise NotHere(
                f"its code imports {module}, which is not installed: "
                f"pip install --no-deps '{distribution}'"
            )
    if checkout is not None:
        module, text, warnings = _clone(source, checkout)
    elif source.pypi is not None:
        module, text, warnings = _package(*source.pypi)
    else:
        raise NotHere(
            f"its code is not on PyPI; clone https://github.com/{source.repository} and name "
            "the folder: --checkout NAME=FOLDER"
        )
    _deviations[:] = warnings
    return PeerCode(module, text, (*warnings, *supply_missing(source.light)))


def forget_deviations() -> None:
    """Before another contestant is opened in this process."""
    _deviations.clear()


def failure_of(error: Exception) -> str:
    """One line about an error that a peer's code raised, and what may be its cause: another commit
    or release than the adapter's, or local changes.
    """
    first = (str(error).strip().splitlines() or [""])[0]
    causes = f" ({'; '.join(_deviations)})" if _deviations else ""
    return f"{type(error).__name__}: {first}{causes}"


def _package(distribution: str, known: str, module: str) -> tuple[str, str, list[str]]:
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise NotHere(
            f"the package {distribution} is not installed: "
            f"pip install --no-deps '{distribution}=={known}'"
        ) from None
    warnings = []
    if version != known:
        warnings.append(f"{distribution} is {version}; the adapter was written for {known}")
    return module, f"PyPI {distribution} {version}", warnings


def _clone(source: Source, checkout: Path) -> tuple[str, str, list[str]]:
    folder = checkout / source.folder
    if not (folder / source.module).is_dir():
        raise NotHere(
            f"the clone has no {Path(source.folder, source.module)}: got {checkout}, expected a "
            f"clone of https://github.com/{source.repository}"
        )
    sys.path.insert(0, str(folder.resolve()))
    commit, changed = _version(checkout)
    warnings = []
    if commit is None:
        warnings.append(f"not a git clone: expected commit {source.commit} of {source.repository}")
    elif not commit.startswith(source.commit):
        warnings.append(f"commit {commit[:7]}; the adapter was written for {source.commit}")
    if changed:
        warnings.append("the clone has local changes")
    return source.module, f"{source.repository} {(commit or 'unknown')[:7]}", warnings


def _version(checkout: Path) -> tuple[str | None, bool]:
    """The commit, or None if it is not a git clone, and whether its Python files are changed.

    `benchmarks/prepare_gpu.sh` notes the commit in a file of its copies, which have no history.
    """
    note = checkout / "COMMIT"
    if note.is_file():
        return note.read_text(encoding="utf-8").strip(), False
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None, False
    # For a folder without .git inside another repository, git reports that repository's commit.
    inside = Path(_git(checkout, "rev-parse", "--show-toplevel")).resolve() == checkout.resolve()
    return (commit, bool(changed)) if inside else (None, False)


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
