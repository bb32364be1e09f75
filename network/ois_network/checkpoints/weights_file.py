"""Files of named tensors: reads safetensors and PyTorch files, writes safetensors.

The format is recognised by the content, not by the suffix:

    safetensors   8 bytes of header length, a JSON header, the tensors
    PyTorch       a zip archive or an old pickle, read with `torch.load(weights_only=True)`

`checkpoint.py` knows what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ois_client.contract.errors import CheckpointError, OutputError
from ois_client.contract.files import write_file

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
#: The errors that `torch.load` raises for truncated and damaged files.
_DAMAGED = (RuntimeError, EOFError, LookupError, ValueError, AttributeError, TypeError)
#: The keys under which published files store their state dict.
_NESTED = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The content of a file. tensors: name -> CPU tensor as stored. sha256: of the file.

    header: the metadata of a safetensors file (strings), or all entries of a PyTorch file except
    the state dict.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    header: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str | Path) -> WeightsFile:
    """Read all tensors of a file. Raises `CheckpointError` if it is not a file of tensors."""
    path = Path(path)
    try:
        if path.is_dir():
            raise CheckpointError(
                f"{path} is a folder; name the checkpoint file in it (.safetensors or .pth)"
            )
        size = path.stat().st_size
        if size == 0:
            raise CheckpointError(f"{path} is empty (0 bytes); download or write it again")
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(_ZIP):
            tensors, header = _read_pytorch(path)
        elif len(start) > 8 and start[8:9] == b"{":
            tensors, header = _read_safetensors(path, size)
        elif start.startswith(_PICKLE):
            tensors, header = _read_pytorch(path)
        else:
            raise CheckpointError(f"{path} {_what_else(start)}; expected .safetensors or .pth")
        if not tensors:
            raise CheckpointError(f"{path} contains no tensors; expected the weights of a network")
        return WeightsFile(path, _sha256(path), tensors, header)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; check the name") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> str:
    """Write a file in one step, see `write_file`, and return its sha256.

    Raises `OutputError` if `path` is not a .safetensors file or cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise OutputError(f"got the output {str(path)!r}; expected a name ending in .safetensors")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file in it")
    data = save({name: t.contiguous() for name, t in tensors.items()}, dict(metadata))
    write_file(path, data)
    return hashlib.sha256(data).hexdigest()


def _read_safetensors(path: Path, size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > size:
            raise CheckpointError(
                f"{path} is truncated: its header needs {8 + length} bytes, the file has {size}; "
                "download it again"
            )
        raw = file.read(length)
    try:
        entries = json.loads(raw)
        ends = [int(e["data_offsets"][1]) for name, e in entries.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CheckpointError(
            f"{path} starts like a safetensors file but its header is damaged; download it again"
        ) from None
    expected = 8 + length + max(ends, default=0)
    if expected != size:
        problem = "is truncated" if expected > size else "has bytes after its last tensor"
        raise CheckpointError(
            f"{path} {problem}: its header describes {expected} bytes, the file has {size}; "
            "download it again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is a damaged safetensors file ({error}); download it again"
        ) from None


def _read_pytorch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            # Warnings about old pickle protocols: the file either loads, or is refused below.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n\n")[0].split("\n")[-1].split(". Please")[0].strip()
        raise CheckpointError(
            f"{path} can only be opened by running code stored in it, which is refused "
            f"({_shorten(reason)}). If you trust the file, load it with the project it comes from "
            "and save only its state_dict: torch.save(model.state_dict(), 'weights.pth')"
        ) from None
    except (*_DAMAGED, SafetensorError) as error:  # torch.load tries safetensors too
        reason = _shorten(str(error).split("\n")[0])
        raise CheckpointError(
            f"{path} is a damaged PyTorch file ({reason}); download it again"
        ) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} contains a {type(content).__name__}; expected a dict of tensors (a state_dict)"
        )
    header: dict[str, Any] = {}
    weights: Mapping[Any, Any] = content
    for name in _NESTED:
        if isinstance(content.get(name), Mapping):
            weights = content[name]
            header = {str(key): value for key, value in content.items() if key != name}
            break
    return {str(k): v for k, v in weights.items() if isinstance(v, Tensor)}, header


def _what_else(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights (run `git lfs pull`)"
    if start.lstrip()[:1] == b"<":
        return "is a web page, not weights (the download was answered with a page)"
    try:
        # The last character may be incomplete.
        start[: max(1, len(start) - 3)].decode("utf-8")
    except UnicodeDecodeError:
        return f"is not a file of tensors (it starts with {start[:8].hex(' ')})"
    if b"\0" in start:
        return f"is not a file of tensors (it starts with {start[:8].hex(' ')})"
    return "is a text file"


def _shorten(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
