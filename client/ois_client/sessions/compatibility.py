"""Does this client understand the model behind a transport?"""

from __future__ import annotations

from ois_client.contract.errors import IncompatibleServer
from ois_client.contract.geometry import PREPROCESS_VERSION
from ois_client.contract.transport import ModelInfo


def check_compatible(info: ModelInfo) -> None:
    """Raise `IncompatibleServer` when clicks would land elsewhere than the engines expect."""
    if info.preprocess_version != PREPROCESS_VERSION:
        raise IncompatibleServer(
            f"the engines were built for the preprocessing {info.preprocess_version!r}, this "
            f"client sends clicks for {PREPROCESS_VERSION!r}; export the engines again, or "
            "install the ois-deploy they were exported with"
        )
    if info.patch < 1 or info.longest < info.patch or info.longest % info.patch:
        raise IncompatibleServer(
            f"the engines are for images of {info.longest} pixels with patches of {info.patch}, "
            "which do not fit together; export them again"
        )
