"""Which transport an address means: servers are built in, others are installed entry points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.transport import Transport
from ois_client.transports.address import DEFAULT_PORTS

TRANSPORTS = "ois_client.transports"  # entry-point group: URL scheme -> open(address, **options)

#: scheme -> the extra of `ois-deploy` that brings what it needs
EXTRAS = {"local": "cpu"}


def is_server(url: str) -> bool:
    """Whether the address has a server's scheme."""
    return url.partition(":")[0] in DEFAULT_PORTS


def connect(url: str, options: Mapping[str, Any]) -> Transport:
    """Open the transport of an address. Raises `InvalidInput` and `EngineError`, see `Client`."""
    if is_server(url):
        from ois_client.transports import blocking

        return blocking.open_transport(url, **options)
    from importlib.metadata import entry_points

    scheme, colon, address = url.partition(":")
    known = {point.name: point for point in entry_points(group=TRANSPORTS)}
    if not colon or scheme not in known:
        extras = ", ".join(
            f"{name}: needs pip install 'ois-deploy[{extra}]'" for name, extra in EXTRAS.items()
        )
        schemes = sorted({*known, *EXTRAS, *DEFAULT_PORTS})
        raise InvalidInput(
            f"got the address {url!r}; expected scheme:address with one of the schemes "
            f"{schemes} ({extras})"
        )
    try:
        transport: Transport = known[scheme].load()(address, **options)
    except ImportError as error:
        raise EngineError(
            f"the address {url!r} needs a package that is not installed ({error}); run "
            f"pip install 'ois-deploy[{EXTRAS.get(scheme, 'all')}]'"
        ) from error
    return transport
