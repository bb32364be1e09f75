"""The token of this user's server on this machine, so that nobody has to copy it.

`ois serve` makes a random token for each start, and writes it to one file for each of its ports.
Only its user can read these files. A client without a token that connects to a loopback address
sends what is in the file for the port. So programs of the same user need no token, and other users
of the machine cannot click.

The file is read for every request, because a server that was started again has another token. The
machine's name is in the file's name: home folders can be shared by machines.
"""

from __future__ import annotations

import socket
from pathlib import Path

from ois_client.contract.files import user_folder
from ois_client.transports.address import Address


def token_file(port: int) -> Path | None:
    """The file for a port: in `$XDG_STATE_HOME/ois-deploy/tokens`, by default in ~/.local/state.

    None if this user has no home folder.
    """
    folder = user_folder("XDG_STATE_HOME", ".local/state")
    return None if folder is None else folder / "tokens" / f"{socket.gethostname()}-{port}"


def local_token(address: Address) -> str | None:
    """The token for a server of this user at a loopback address; None if there is no such server.

    A server behind a proxy that listens on another port has no file for that port.
    """
    if not address.loopback or (file := token_file(address.port)) is None:
        return None
    try:
        token = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return token if token and token.isprintable() else None
