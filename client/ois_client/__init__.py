"""Click on objects in images: order-aware interactive segmentation, the client's side.

with Client("local:") as client:
    session = client.open("photo.jpg")
    mask = session.click(512, 300)                      # (H, W) uint8, 1 = object
    mask = session.click(80, 40, positive=False)

Needs NumPy and Pillow only; what runs the engines is loaded when an address asks for it.
"""

from ois_client.clicks import Click
from ois_client.client import Client
from ois_client.errors import (
    CheckpointError,
    DeadlineExceeded,
    EngineError,
    ExportError,
    IncompatibleServer,
    InvalidClick,
    InvalidImage,
    InvalidInput,
    OISError,
    OutputError,
    ParityError,
    ServerOverloaded,
    ServerUnavailable,
    TooManyClicks,
    UnknownImage,
    UnsupportedGraph,
)
from ois_client.geometry import Geometry
from ois_client.images import ImageLimits, Picture, load_image
from ois_client.masks import MaskFormat, decode_mask, encode_mask
from ois_client.session import Session
from ois_client.transport import ClickReply, ClickRequest, EncodeReply, ModelInfo, Transport

__all__ = [
    "CheckpointError",
    "Click",
    "ClickReply",
    "ClickRequest",
    "Client",
    "DeadlineExceeded",
    "EncodeReply",
    "EngineError",
    "ExportError",
    "Geometry",
    "ImageLimits",
    "IncompatibleServer",
    "InvalidClick",
    "InvalidImage",
    "InvalidInput",
    "MaskFormat",
    "ModelInfo",
    "OISError",
    "OutputError",
    "ParityError",
    "Picture",
    "ServerOverloaded",
    "ServerUnavailable",
    "Session",
    "TooManyClicks",
    "Transport",
    "UnknownImage",
    "UnsupportedGraph",
    "decode_mask",
    "encode_mask",
    "load_image",
]
