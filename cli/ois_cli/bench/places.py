"""What the commands of `ois bench` share: where results go, and how sizes are written."""

from __future__ import annotations

import re
from pathlib import Path

from ois_cli.files import check_output, make_folder
from ois_client.contract.errors import InvalidInput

RESULTS = Path("benchmarks/results")


def check_place(place: Path, formats: dict[str, str], *, default: bool) -> None:
    """Before any work: the default folder is made, another one must be there."""
    if default:
        make_folder(place.parent)
    check_output(place, formats)


def parse_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT. Raises `InvalidInput` for anything else."""
    match = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", text.strip())
    if match is None:
        raise InvalidInput(f"got the size {text!r}; expected WIDTHxHEIGHT, for example 1022x574")
    return int(match[1]), int(match[2])
