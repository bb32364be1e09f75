"""Which checkpoint the backend torch runs: a file, or the one an engine folder was made from.

An engine folder holds graphs, not the network; its manifest has the digest of the checkpoint
they were exported from, so the right file is recognised wherever it lies.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ois_client.contract.errors import EngineError, InvalidInput
from ois_runtime.engines.manifest import MANIFEST_FILE, Manifest, sha256_of

CHECKPOINT_VARIABLE = "OIS_CHECKPOINT"
DEFAULT_CHECKPOINT = Path("models/ois-tiny.safetensors")
SUFFIX = ".safetensors"


def find_checkpoint(path: Path, named: Path | None = None) -> Path:
    """The checkpoint file that `path`, a checkpoint or an engine folder, means.

    named: the file to take, for a folder; without it, see `checkpoint_of`. Raises `EngineError`
    when there is none, `InvalidInput` when a file and another one are named.
    """
    if path.is_file():
        if named is not None and not (named.is_file() and named.samefile(path)):
            raise InvalidInput(f"got two checkpoints, {path} and {named}; expected one")
        return path
    if not (path / MANIFEST_FILE).is_file():
        raise EngineError(
            f"no checkpoint and no engine folder at {path}; expected a {SUFFIX} file, or a "
            "folder that `ois export` made"
        )
    return checkpoint_of(Manifest.load(path), path, named)


def checkpoint_of(manifest: Manifest, folder: Path, named: Path | None = None) -> Path:
    """The checkpoint that the engines of a manifest were made from: `named`, or the one among
    `$OIS_CHECKPOINT`, those in the engines' `folder` and those in `models/` with its digest.

    Raises `EngineError` when the file is missing or is not the one.
    """
    if named is not None and not named.is_file():
        raise EngineError(f"no checkpoint at {named}; expected a {SUFFIX} file")
    wanted = manifest.checkpoint_sha256
    candidates = [named] if named is not None else list(_candidates(folder))
    for candidate in candidates:
        if sha256_of(candidate) == wanted:
            return candidate
    looked = ", ".join(map(str, candidates)) or f"nothing: no {SUFFIX} file in {folder} or models/"
    raise EngineError(
        f"the engines in {folder} were made from a checkpoint with sha256 {wanted[:12]}…, which is "
        f"not among {looked}. PyTorch runs the network itself: name its file with "
        f"checkpoint=FILE (--checkpoint FILE) or in {CHECKPOINT_VARIABLE}"
    )


def default_checkpoint(folder: Path) -> Path:
    """What `local:cuda` runs: `$OIS_CHECKPOINT`, else the checkpoint of the default engine
    `folder`, else the shipped one. May not exist."""
    if named := os.environ.get(CHECKPOINT_VARIABLE):
        return Path(named)
    return find_checkpoint(folder) if folder.is_dir() else DEFAULT_CHECKPOINT


def _candidates(folder: Path) -> Iterator[Path]:
    if named := os.environ.get(CHECKPOINT_VARIABLE):
        yield Path(named)
    for place in (folder, DEFAULT_CHECKPOINT.parent):
        yield from sorted(place.glob(f"*{SUFFIX}"))
