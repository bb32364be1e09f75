"""Finds the checkpoint for the backend torch: a file, or the one an engine folder was made from.

An engine folder contains graphs, not the network. Its manifest records the digest of the
checkpoint that they were exported from, which identifies the right file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ois_client.contract.errors import CheckpointError, EngineError, InvalidInput
from ois_runtime.engines.manifest import MANIFEST_FILE, Manifest, sha256_of
from ois_runtime.shipped import shipped_checkpoint

CHECKPOINT_VARIABLE = "OIS_CHECKPOINT"
_MODELS = Path("models")
SUFFIX = ".safetensors"


def find_checkpoint(path: Path, named: Path | None = None) -> Path:
    """The checkpoint file for `path`, which is a checkpoint or an engine folder.

    named: the file to use for a folder; if None, see `checkpoint_of`. Raises `EngineError` if
    there is none, and `InvalidInput` if `path` and `named` are two different files.
    """
    if path.is_file():
        if named is not None and not (named.is_file() and named.samefile(path)):
            raise InvalidInput(f"got two checkpoints, {path} and {named}; expected one")
        return path
    if not (path / MANIFEST_FILE).is_file():
        raise EngineError(
            f"no checkpoint and no engine folder at {path}; expected a {SUFFIX} file, or a "
            "folder made by `ois export`"
        )
    return checkpoint_of(Manifest.load(path), path, named)


def checkpoint_of(manifest: Manifest, folder: Path, named: Path | None = None) -> Path:
    """The checkpoint that the engines of a manifest were made from.

    Without `named`, searches `$OIS_CHECKPOINT`, the engines' `folder`, `models/` and the shipped
    checkpoint for a file with the recorded digest. Raises `EngineError` if there is none, or
    `named` has another digest.
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
        f"not among {looked}. PyTorch needs that file: name it with "
        f"checkpoint=FILE (--checkpoint FILE) or in {CHECKPOINT_VARIABLE}"
    )


def default_checkpoint(folder: Path) -> Path:
    """The checkpoint that `local:cuda` runs.

    `$OIS_CHECKPOINT`, otherwise the checkpoint of the default engine `folder` if that exists,
    otherwise the one that is shipped.
    """
    if named := os.environ.get(CHECKPOINT_VARIABLE):
        return Path(named)
    return find_checkpoint(folder) if folder.is_dir() else shipped_checkpoint()


def _candidates(folder: Path) -> Iterator[Path]:
    if named := os.environ.get(CHECKPOINT_VARIABLE):
        yield Path(named)
    for place in (folder, _MODELS):
        yield from sorted(place.glob(f"*{SUFFIX}"))
    with suppress(CheckpointError):
        yield shipped_checkpoint()
