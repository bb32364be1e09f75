"""A random token for a server, which only programs of the server's user can read."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ois_client.contract.errors import InvalidInput, OutputError
from ois_client.contract.files import write_file
from ois_client.transports.local_token import token_file


def new_token() -> str:
    """43 characters, 256 random bits."""
    return secrets.token_urlsafe(32)


@contextmanager
def told_to_own_user(token: str, ports: Sequence[int]) -> Iterator[list[Path]]:
    """While the block runs, clients of this user find the token of the server on these ports.

    Yields the files. A file is only removed if it still holds this token: the port may have got
    another server meanwhile. Raises `InvalidInput` if a file cannot be written.
    """
    files: list[Path] = []
    try:
        for port in ports:
            file = token_file(port)
            if file is None:
                raise InvalidInput(
                    "this user has no home folder for the server's token. Set HOME or "
                    "XDG_STATE_HOME, choose a token (--token-file), or use --no-token"
                )
            _write(file, token)
            files.append(file)
        yield files
    finally:
        for file in files:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if file.read_text(encoding="ascii") == token:
                    file.unlink()


def _write(file: Path, token: str) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(file, token.encode(), mode=0o600)
    except (OSError, OutputError) as error:
        raise InvalidInput(
            f"there is no place for the server's token: {error}. Set XDG_STATE_HOME to a folder "
            "that can be written, choose a token (--token-file), or use --no-token"
        ) from error
