"""Pictures that are reserved for evaluation: a training source that has one of them is refused.

`reserved.json` lists their sha256: the pictures of scikit-image, scikit-learn and Debian's
opencv-doc, five wallpapers, and all photographs of this repository. A copy that was stored again
has another sha256, so telling file names count too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path

from ois_client.contract.errors import InvalidInput

#: Names of pictures, without suffix and in small letters, that nothing else is called.
_NAMES = {
    "eveningglow", "fallenleaf", "coldripple", "ladybird", "astronaut", "chelsea", "retina",
    "stereo_motorcycle", "motorcycle_left", "motorcycle_right", "aloel", "aloer", "messi5", "lena",
    "baboon",
}  # fmt: skip


def refuse_reserved(files: Iterable[Path]) -> None:
    """Raise `InvalidInput` with the names if some of the files are reserved for evaluation."""
    known = _known()
    found = []
    for path in files:
        source = known.get(_sha256(path))
        if source is not None:
            found.append(f"{path} ({source})")
        elif path.stem.lower() in _NAMES:
            found.append(f"{path} (by its name)")
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise InvalidInput(
            f"{', '.join(found[:5])}{more}: reserved for evaluation, so a network must not be "
            "trained on it; remove it from the training data"
        )


@cache
def _known() -> dict[str, str]:
    text = (resources.files(__package__) / "reserved.json").read_text(encoding="utf-8")
    known: dict[str, str] = json.loads(text)
    return known


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
