"""Opens the transport that the scheme of an address selects.

`grpc:` and `http:` are built in. Other schemes, such as `local:`, belong to installed packages that
register an entry point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.transport import Transport
from ois_client.transports.address import DEFAULT_PORTS, is_server

TRANSPORTS = "ois_client.transports"  # entry-point group: URL scheme -> open(address, **options)

#: scheme -> the extra of `ois-deploy` that installs its dependencies
EXTRAS = {"local": "cpu"}


def connect(url: str, options: Mapping[str, Any]) -> Transport:
    """Open the blocking transport that the scheme of `url` selects.

    Raises `InvalidInput` for a wrong address or option and `EngineError` if a package that the
    scheme needs is not installed. See `Client` for the options.
    """
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
