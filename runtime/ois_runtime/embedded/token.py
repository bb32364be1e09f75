"""The token that clients must send: where it is written, and what it may be.

One rule for every way to start a server and for the health checks beside them. A file that was
named and holds no token is an error: without one, the server would be open.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ois_client.contract.errors import InvalidInput

TOKEN = "OIS_TOKEN"
TOKEN_FILE = "OIS_TOKEN_FILE"

#: What separates and ends a token where Triton's command line has it.
_SEPARATORS = frozenset(" ,:=")


def check_token(token: str) -> None:
    """Raises `InvalidInput` for a token that is empty or that Triton cannot be told."""
    if not (token.isascii() and token.isprintable()):
        raise InvalidInput("got a token with characters that no HTTP header can carry")
    if not token or set(token) & _SEPARATORS:
        raise InvalidInput("got a token that is empty or has a space or one of , : = in it")


def token_in(file: Path) -> str:
    """The token in a file, without the end of its line. Raises `InvalidInput`, naming the file."""
    try:
        token = file.read_text(encoding="utf-8").strip()
        check_token(token)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the token file {file} cannot be read ({error}); expected a token that clients must "
            f"send, or no {TOKEN_FILE}"
        ) from error
    except InvalidInput as error:
        raise InvalidInput(
            f"{error}: the token file {file}. Write a token into it, or name no file"
        ) from error
    return token


def token_of(environment: Mapping[str, str]) -> str | None:
    """What the environment says, the file before the token itself; None leaves the server open.

    Raises `InvalidInput`.
    """
    if file := environment.get(TOKEN_FILE):
        return token_in(Path(file))
    token = environment.get(TOKEN) or None
    if token is not None:
        check_token(token)
    return token
