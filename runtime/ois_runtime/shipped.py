"""The checkpoint that comes with the package: `ois-photo`, in a wheel and in a checkout.

A wheel has it inside this package (`pyproject.toml`), a checkout in `models/`. Code and messages
name it by `shipped_checkpoint()` or by doing without a name, as `ois export` does, because the
path differs between the two.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ois_client.contract.errors import CheckpointError

#: Stands for the shipped file wherever a command takes a checkpoint.
SHIPPED = "ois-photo"
_FILE = f"{SHIPPED}.safetensors"
_CHECKOUT = Path(__file__).resolve().parents[2]


def shipped_checkpoint() -> Path:
    """The path of `ois-photo.safetensors`.

    Raises `CheckpointError` if this installation lacks it.
    """
    places = Path(str(resources.files("ois_runtime"))) / "models", _CHECKOUT / "models"
    for place in places:
        if (place / _FILE).is_file():
            return place / _FILE
    raise CheckpointError(
        f"got an installation without {_FILE}; expected it in one of {', '.join(map(str, places))}."
        " Install ois-deploy again, or name a checkpoint of your own"
    )


def named_checkpoint(given: Path | None) -> Path:
    """The file that a user means: a path, or the shipped file for None and "ois-photo".

    Raises `CheckpointError` as `shipped_checkpoint`; whether another path exists is not checked.
    """
    if given is None or (str(given) == SHIPPED and not given.exists()):
        return shipped_checkpoint()
    return given
