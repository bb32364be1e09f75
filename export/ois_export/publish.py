"""An engine folder appears whole, in one rename, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ois_client.contract.errors import OutputError
from ois_runtime.engines.manifest import MANIFEST_FILE


def check_output(output: Path) -> None:
    """Refuse to replace anything that is not an engine folder."""
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output} is a file; expected a folder to write the engines to")
    if any(output.iterdir()) and not (output / MANIFEST_FILE).is_file():
        raise OutputError(
            f"{output} is not empty and holds no {MANIFEST_FILE}: it is not an engine folder. "
            "Choose another --output; nothing was changed"
        )


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A hidden folder beside `output`, gone afterwards whatever happens."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise OutputError(f"cannot write to {output.parent}: {error}") from error
    try:
        yield folder
    except OSError as error:
        raise OutputError(
            f"writing the engines failed: {error}; {output} is as it was before"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, output: Path) -> None:
    """`folder` takes the place of `output`; on failure the old engines stay."""
    folder.chmod(0o755)
    old = None
    if output.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{output.name}-old-", dir=output.parent))
        output.replace(old / "engines")
    try:
        folder.replace(output)
    except OSError:
        if old is not None:
            (old / "engines").replace(output)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
