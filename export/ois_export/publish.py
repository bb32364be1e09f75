"""Writes a folder whole or not at all: `staging` gives a hidden folder, `publish` renames it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ois_client.contract.errors import OutputError
from ois_runtime.engines.manifest import MANIFEST_FILE


def check_output(output: Path) -> None:
    """Raise `OutputError` if `output` exists and is not an engine folder."""
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output} is a file; expected a folder to write the engines to")
    if any(output.iterdir()) and not (output / MANIFEST_FILE).is_file():
        raise OutputError(
            f"{output} is not empty and has no {MANIFEST_FILE}, so it is not an engine folder. "
            "Choose another --output; nothing was changed"
        )


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """Make a hidden folder beside `output`, removed afterwards if it was not published.

    Raises `OutputError` if an `OSError` occurs inside the block.
    """
    folder = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        yield folder
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error}; nothing was changed") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, output: Path) -> None:
    """Rename `folder` to `output`. If that fails, an existing `output` is restored."""
    folder.chmod(0o755)
    old = None
    if output.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{output.name}-old-", dir=output.parent))
        output.replace(old / output.name)
    try:
        folder.replace(output)
    except OSError:
        if old is not None:
            (old / output.name).replace(output)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
