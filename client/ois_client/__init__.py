"""Order-aware interactive segmentation: the client.

with Client("grpc://host:8001") as client:              # or "http://host:8000", "local:"
    session = client.open("photo.jpg")
    mask = session.click(512, 300)                      # (H, W) uint8, 1 = object
    mask = session.click(80, 40, positive=False)

`AsyncClient` is the same on an event loop. `OISPredictor(client)` has the interface of SAM's
predictor, `OISAutomaticMaskGenerator(client)` that of its mask generator. Importing this package
loads only NumPy and Pillow. Code that talks to a server or runs engines is imported when an
address needs it. `ois_client.contract.errors` draws the tree of all errors.
"""

from typing import TYPE_CHECKING, Any

from ois_client.contract.clicks import Click
from ois_client.contract.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    EngineError,
    IncompatibleServer,
    InvalidClick,
    InvalidImage,
    InvalidInput,
    OISError,
    OutputError,
    ServerOverloaded,
    ServerUnavailable,
    TooManyClicks,
    UnknownImage,
)
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import ImageLimits, Picture, load_image
from ois_client.contract.masks import MaskFormat, decode_mask, encode_mask
from ois_client.contract.transport import (
    AsyncTransport,
    ClickReply,
    ClickRequest,
    EncodeReply,
    ModelInfo,
    Transport,
)
from ois_client.sam.automatic import OISAutomaticMaskGenerator
from ois_client.sam.model import OISModel
from ois_client.sam.predictor import OISPredictor
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session
from ois_client.transports.settings import TLS, Retries, Timeouts

if TYPE_CHECKING:
    from ois_client.sessions.async_client import AsyncClient
    from ois_client.sessions.async_session import AsyncSession

__all__ = [
    "TLS",
    "AccessDenied",
    "AsyncClient",
    "AsyncSession",
    "AsyncTransport",
    "Cancelled",
    "Click",
    "ClickReply",
    "ClickRequest",
    "Client",
    "DeadlineExceeded",
    "EncodeReply",
    "EngineError",
    "Geometry",
    "ImageLimits",
    "IncompatibleServer",
    "InvalidClick",
    "InvalidImage",
    "InvalidInput",
    "MaskFormat",
    "ModelInfo",
    "OISAutomaticMaskGenerator",
    "OISError",
    "OISModel",
    "OISPredictor",
    "OutputError",
    "Picture",
    "Retries",
    "ServerOverloaded",
    "ServerUnavailable",
    "Session",
    "Timeouts",
    "TooManyClicks",
    "Transport",
    "UnknownImage",
    "decode_mask",
    "encode_mask",
    "load_image",
]

_ASYNC = {"AsyncClient": "sessions.async_client", "AsyncSession": "sessions.async_session"}


def __getattr__(name: str) -> Any:
    """Import the async classes on first use: asyncio is a third of the import time."""
    if name not in _ASYNC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_ASYNC[name]}"), name)
