"""Runs engines in process or behind an embedded server.

    Picture ─► preprocess ─► encode ─► ImageState ─► FeatureStore
                                                        │
    clicks, coverage ───────────────► decode ◄──────────┘ ─► logits ─► postprocess ─► masks

Open exported engines and run them:

    from ois_runtime import EngineBackend, load_engines

    engines = load_engines("engines/ois-photo-cpu", EngineBackend.OPENVINO)

Names are imported when they are first used, so `import ois_runtime` loads nothing else. Most users
need only `ois_client`: `Client("local:")` opens engines too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ois_runtime.embedded.options import ServerOptions
    from ois_runtime.embedded.server import EmbeddedServer
    from ois_runtime.engines.backends import (
        EngineBackend,
        EngineOptions,
        Precision,
        load_engines,
    )
    from ois_runtime.engines.manifest import Manifest
    from ois_runtime.engines.pair import EnginePair

__all__ = [
    "EmbeddedServer",
    "EngineBackend",
    "EngineOptions",
    "EnginePair",
    "Manifest",
    "Precision",
    "ServerOptions",
    "load_engines",
]

_MODULES = {
    "EmbeddedServer": "ois_runtime.embedded.server",
    "EngineBackend": "ois_runtime.engines.backends",
    "EngineOptions": "ois_runtime.engines.backends",
    "EnginePair": "ois_runtime.engines.pair",
    "Manifest": "ois_runtime.engines.manifest",
    "Precision": "ois_runtime.engines.backends",
    "ServerOptions": "ois_runtime.embedded.options",
    "load_engines": "ois_runtime.engines.backends",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
