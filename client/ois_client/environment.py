"""The client of a program whose settings are environment variables, such as the integrations."""

from __future__ import annotations

import os
from typing import Any

from ois_client.sessions.client import Client
from ois_client.transports.address import is_server


def open_client(url: str | None = None) -> Client:
    """A client for `url`, by default for $OIS_URL, else for the engines of this machine.

    A server is sent the token in $OIS_TOKEN, if there is one. It is no argument, because arguments
    are in the list of processes. Raises what `Client` raises.
    """
    address = url or os.environ.get("OIS_URL") or "local:"
    token = os.environ.get("OIS_TOKEN")
    options: dict[str, Any] = {"token": token} if token and is_server(address) else {}
    return Client(address, **options)
