"""Keeps what was measured on this GPU in the user's cache, so that it is measured only once."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch

from ois_client.contract.errors import OISError
from ois_client.contract.files import user_folder, write_file

_LOG = logging.getLogger(__name__)
_SCHEMA = 1


def cache_folder() -> Path | None:
    """`$XDG_CACHE_HOME/ois-deploy` or `~/.cache/ois-deploy`; None if there is no home folder."""
    return user_folder("XDG_CACHE_HOME", ".cache")


def gpu_name(device: torch.device) -> str:
    """The GPU's model, such as `"NVIDIA H200"`; `"cpu"` for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def cudnn_version(device: torch.device) -> int | None:
    """cuDNN's version, such as 91900; None on the CPU, which does not need the library."""
    return torch.backends.cudnn.version() if device.type == "cuda" else None


class Kept:
    """One measurement in the user's cache: a JSON file.

    Its name has a digest of everything that the measurement depends on, so a result is never used
    for another GPU, version or network.
    """

    def __init__(self, kind: str, depends_on: list[object], folder: Path | None = None) -> None:
        """kind: the beginning of the file's name. folder: default `cache_folder()`."""
        folder = folder or cache_folder()
        digest = hashlib.sha256("\n".join(map(str, depends_on)).encode()).hexdigest()[:12]
        self.file = None if folder is None else folder / f"{kind}-{digest}.json"

    def read(self) -> dict[str, Any] | None:
        """What was kept. None if there is nothing, or it is damaged: measure again."""
        if self.file is None or not self.file.is_file():
            return None
        try:
            document = json.loads(self.file.read_text(encoding="utf-8"))
            found: dict[str, Any] | None = (
                document["kept"] if document["schema"] == _SCHEMA else None
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, values: dict[str, Any]) -> None:
        """Keep `values`. If that is impossible, the log says so, and it is measured again."""
        if self.file is None:
            return
        text = json.dumps({"schema": _SCHEMA, "kept": values}, indent=1) + "\n"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.file, text.encode())
        except (OSError, OISError) as error:
            _LOG.warning("could not keep a measurement of this GPU: %s", error)
